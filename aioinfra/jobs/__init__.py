"""Background jobs: tasks, a client to enqueue them, and a worker that runs them, on arq's wire format."""
