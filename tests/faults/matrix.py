"""The faults that aioinfra promises to live through, and the tests that show it.

A test is named as pytest names it, a file stands for all of its tests.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One fault: what is done, what must be seen, and where it is tried."""

    number: int
    fault: str
    injection: str
    promise: str
    tests: tuple[str, ...]


_FAULTS = "tests/faults/"
_ROUNDS = _FAULTS + "test_cache_coherence_rounds.py::"
_OUTAGE = _FAULTS + "test_cache_outage.py::"
_SENTINEL = _FAULTS + "test_sentinel_cache.py::"
_CACHE = "tests/cache/"
_EMBEDDED = "tests/connection/test_embedded.py::"

ROWS = (
    Row(
        1,
        "The server crashes",
        "SIGKILL under load, restart",
        "0 jobs lost, 0 recorded twice, 0 workers dead; work goes on within 1 s of the server's return",
        (_FAULTS + "test_server_crash.py::test_nothing_is_lost_or_recorded_twice_and_no_worker_dies",),
    ),
    Row(
        2,
        "The server hangs",
        "SIGSTOP for some seconds",
        "no cache call takes longer than 0.25 s, no enqueue longer than 2 s; nobody hangs",
        (
            _FAULTS + "test_hang.py",
            _OUTAGE + "test_a_hung_server_costs_a_read_little_more_than_its_budget",
            _OUTAGE + "test_the_first_probe_that_is_answered_ends_the_outage",
            _CACHE + "test_cache_near.py::test_a_stopped_server_ends_the_answers_of_l1_after_the_bound",
        ),
    ),
    Row(
        3,
        "The server hangs before the first connection",
        "SIGSTOP, 100 callers on a cold pool",
        "all return within one timeout, side by side",
        (
            _FAULTS + "test_hang.py::test_a_hundred_callers_of_a_cold_pool_wait_side_by_side",
            _FAULTS + "test_hang.py::test_a_hundred_cache_readers_of_a_cold_pool_wait_one_budget",
        ),
    ),
    Row(
        4,
        "The server takes no commands",
        "CLIENT PAUSE, of writes and of everything",
        "as in 2; no job lost or run twice",
        (_FAULTS + "test_pause.py",),
    ),
    Row(
        5,
        "The server crashes during enqueues",
        "SIGKILL under 20 producers, again and again",
        "0 acknowledged jobs lost, 0 false duplicates; what cannot be known is EnqueueUncertain",
        (
            _FAULTS
            + "test_server_crash.py::test_enqueue_says_what_it_knows_while_its_server_crashes_again_and_again",
        ),
    ),
    Row(
        6,
        "A worker is killed",
        "SIGKILL at each step of a job's life",
        "the job runs elsewhere within the lease and 2 s, no try counted; what was recorded does not run again",
        (
            _FAULTS + "test_worker_signals.py::"
            "test_a_job_whose_worker_is_killed_at_any_step_runs_again_unless_its_end_is_recorded",
        ),
    ),
    Row(
        7,
        "A worker is told to end",
        "SIGTERM under load",
        "what can end within the grace ends, the rest is given back; the process always leaves",
        (
            _FAULTS + "test_worker_signals.py::"
            "test_a_worker_told_to_end_lets_what_it_can_end_and_gives_back_the_rest",
            _FAULTS + "test_rolling_restart.py",
            "tests/jobs/test_worker_command.py",
        ),
    ),
    Row(
        8,
        "A worker is stopped for longer than its lease",
        "SIGSTOP, SIGCONT",
        "it cannot overwrite what its heir recorded",
        (
            _FAULTS + "test_worker_signals.py::"
            "test_workers_that_were_stopped_for_longer_than_their_lease_cannot_overwrite_results",
        ),
    ),
    Row(
        9,
        "A job blocks its worker's event loop",
        "time.sleep for longer than the lease",
        "a thread keeps the lease: the job runs once",
        ("tests/jobs/test_crash.py::test_blocked_stopped_and_poisoned_workers",),
    ),
    Row(
        10,
        "The master that Sentinels watch crashes",
        "SIGKILL of it",
        "no call of the cache fails; the server answers within 5 s, and the cache with it",
        (_SENTINEL + "test_the_cache_answers_all_along_and_comes_back_to_the_new_master",),
    ),
    Row(
        11,
        "The master that Sentinels watch hangs, and comes back",
        "SIGSTOP for 6 s, SIGCONT; busy and idle clients",
        "as in 10; nobody believes the old master, L1 neither",
        (
            _SENTINEL + "test_the_cache_answers_all_along_and_comes_back_to_the_new_master",
            _SENTINEL + "test_an_old_master_that_comes_back_is_believed_by_nobody",
        ),
    ),
    Row(
        12,
        "The master is replaced on request",
        "SENTINEL FAILOVER, with coordination and without",
        "with coordination 0 acknowledged writes lost, else those of the last moment",
        (_FAULTS + "test_sentinel_writes.py",),
    ),
    Row(
        13,
        "The network misbehaves",
        "seven toxics and partitions, by a proxy",
        "0 wrong answers, nobody hangs",
        (
            _FAULTS + "test_toxics.py",
            _FAULTS + "test_cache_outage.py",
            _CACHE + "test_cache_coherence.py::test_the_same_walk_over_a_network_that_delays_and_reorders",
        ),
    ),
    Row(
        14,
        "A caller is cancelled",
        "at each await in turn, before and after what it waits for",
        "no connection poisoned, no slot, lock, flight or task left behind",
        (
            _FAULTS + "test_cancel.py",
            _FAULTS + "test_cancel_cache.py",
            _CACHE + "test_cache_locks.py::test_a_waiter_cancelled_at_any_suspension_leaves_no_lock",
            _CACHE + "test_cache_fleet_flight.py::test_a_cache_that_closes_gives_its_leases_back",
        ),
    ),
    Row(
        15,
        "The server is out of memory",
        "CONFIG SET maxmemory under load, noeviction",
        "the cache answers from memory, enqueues raise StoreFull, stored jobs run to their recorded ends",
        (_FAULTS + "test_memory_full.py",),
    ),
    Row(
        16,
        "The server may evict",
        "maxmemory-policy allkeys-lru",
        "workers of a Service refuse it, ArqWorker warns",
        (
            "tests/test_service.py::test_a_server_that_evicts_is_refused_for_jobs",
            "tests/jobs/test_arq_dropin.py::test_a_server_that_evicts_is_warned_of",
        ),
    ),
    Row(
        17,
        "The server refuses",
        "LOADING, READONLY, NOREPLICAS, MISCONF, NOAUTH, NOPERM, OOM, ... by a fake in front",
        "repeated or raised as documented, by cache, producer and worker; the worker lives",
        (_FAULTS + "test_errors.py",),
    ),
    Row(
        20,
        "The server is absent at the start",
        "nothing listens, it comes later",
        "applications and workers start, the cache answers from memory; recovered within 2 s",
        (_FAULTS + "test_absent_at_boot.py",),
    ),
    Row(
        21,
        "The server forgets",
        "FLUSHALL, FLUSHDB, SCRIPT FLUSH; keys that expire unseen beside many long-lived ones",
        "1 s later L1 answers nothing of it; scripts are loaded anew",
        (
            _ROUNDS + "test_the_server_is_flushed",
            _ROUNDS + "test_keys_end_without_a_word",
            _CACHE + "test_cache_tags.py::test_a_tag_that_is_lost_ends_its_values_and_never_brings_them_back",
            _CACHE
            + "test_cache_tags.py::test_a_generation_that_is_lost_ends_all_values_and_is_made_anew_once",
        ),
    ),
    Row(
        22,
        "An invalidation is lost or late",
        "CLIENT KILL of what listens, its network partitioned, replies held until the invalidation has come",
        "1 s after it L1 answers nothing old; nothing older than its bound meanwhile",
        (
            _ROUNDS + "test_a_reply_that_is_slower_than_its_invalidation",
            _ROUNDS + "test_the_connection_that_hears_is_killed",
            _ROUNDS + "test_the_connection_that_hears_is_partitioned",
            _CACHE + "test_cache_coherence.py::"
            "test_five_thousand_writes_elsewhere_and_none_is_missed_after_a_barrier",
        ),
    ),
    Row(
        24,
        "The wall clock jumps",
        "by an hour, ahead and back",
        "no job early or late, each cron tick once",
        (_FAULTS + "test_clock_jump.py",),
    ),
    Row(
        25,
        "The embedded server loses its user, guardian or process",
        "signals, 24-way churn",
        "exactly one server, no orphan after 2 s, nothing acknowledged lost",
        (
            _FAULTS + "test_embedded_churn.py",
            _EMBEDDED + "test_the_server_ends_with_its_last_user_even_when_that_one_is_killed",
            _EMBEDDED + "test_a_crashed_server_is_back_within_a_second_with_every_acknowledged_write",
            _EMBEDDED + "test_a_killed_guardian_takes_its_server_along_and_the_next_user_finds_the_data",
        ),
    ),
    Row(
        27,
        "Workers leak memory",
        "1 MiB a job, 10,000 jobs, a limit of 400 MiB, restarts at random",
        "the supervisor replaces them: memory stays under its limit, nothing lost, each job runs once",
        (_FAULTS + "test_leak.py",),
    ),
    Row(
        28,
        "The server is away for longer than a lease",
        "SIGKILL, back after 30 s, under 100 running jobs; append-only file on",
        "each job has one recorded result, 0 workers dead; jobs are claimed within 1 s of the server's return",
        (_FAULTS + "test_long_outage.py",),
    ),
    Row(
        29,
        "Plain arq workers serve the same queue",
        "5,000 jobs in JSON and in pickle, of both kinds of producers; 1,000 jobs held at the queue's head",
        "each kind of worker takes its part, 0 jobs lost or run twice; a fresh job starts at once",
        ("tests/jobs/test_mixed_fleet.py",),
    ),
)
