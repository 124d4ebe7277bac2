"""What the broker's tests run in processes of their own: writers, readers, and a Celery app on the embedded broker."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Connection, Queue

from worker.broker import broker_settings

QUEUE = "cpu"
END = "end"


def connection(folder: Path) -> Connection:
    settings = broker_settings(folder)
    return Connection(
        settings["broker_url"],
        transport=settings["broker_transport"],
        transport_options={**settings["broker_transport_options"], "polling_interval": 0.01},
    )


def envelope(number: Any, *, queue: str = QUEUE, **headers: Any) -> dict[str, Any]:
    """A message as kombu's channel gets it from a producer."""
    return {
        "body": f'{{"number": "{number}", "padding": "{"x" * 20_000}"}}',
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {"delivery_info": {}},
    }


def write(folder: Path, name: str, count: int) -> None:
    with connection(folder) as broker:
        channel = broker.default_channel
        for number in range(count):
            channel.basic_publish(envelope(f"{name}-{number}"), exchange="", routing_key=QUEUE)


def read(folder: Path) -> None:
    """Print what arrives, until a message says that it is the last."""
    with connection(folder) as broker:
        channel = broker.default_channel
        while True:
            message = channel.basic_get(QUEUE, no_ack=True)
            if message is None:
                time.sleep(0.005)
                continue
            print(message.payload["number"], flush=True)
            if message.payload["number"] == END:
                return


def make_app(folder: Path) -> Celery:
    app = Celery("broker-test")
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        task_queues=[Queue(QUEUE)],
        task_default_queue=QUEUE,
        worker_prefetch_multiplier=1,
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        **broker_settings(folder),
    )

    @app.task(name="leave_a_mark")  # type: ignore[untyped-decorator]  # Celery has no types
    def leave_a_mark(path: str) -> None:
        with Path(path).open("a") as file:
            file.write("done\n")

    return app


if "BROKER_TEST_FOLDER" in os.environ:
    app = make_app(Path(os.environ["BROKER_TEST_FOLDER"]))

if __name__ == "__main__":
    program, folder, *rest = sys.argv[1:]
    if program == "write":
        write(Path(folder), rest[0], int(rest[1]))
    else:
        read(Path(folder))
