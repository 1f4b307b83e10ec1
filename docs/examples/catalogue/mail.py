"""Messages in a maildir: one file each, complete as soon as it can be seen (https://cr.yp.to/proto/maildir.html)."""

from __future__ import annotations

import os
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

SENDER = "catalogue@localhost"


def compose(to: str, subject: str, text: str, *, job_id: str, request_id: str | None) -> EmailMessage:
    """A message whose headers say which job wrote it, for which request.

    Raises:
        ValueError: a header would hold a line break.
    """
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = f"<{job_id}@catalogue.localhost>"
    message["X-Job-Id"] = job_id
    if request_id:
        message["X-Request-Id"] = request_id
    message.set_content(text)
    return message


def deliver(maildir: Path, message: EmailMessage, unique: str) -> Path:
    """Store a message under a name made of ``unique`` and return its path.

    Delivering twice under one name stores one message: a job that runs again writes no second mail.
    """
    name = quote(unique, safe="")  # a maildir gives ':' and '/' a meaning of their own
    partial, final = maildir / "tmp" / f"{name}.{os.getpid()}", maildir / "new" / name
    with partial.open("wb") as file:
        file.write(bytes(message))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(final)
    return final
