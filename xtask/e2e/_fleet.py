"""Where the fleet is, for the scripts beside this file: what the driver says in the environment."""

import json
import os
import time
import urllib.error
import urllib.request

URL = os.environ["E2E_URL"]
ENGINES = os.environ["E2E_ENGINES"].split(",")
MODEL = os.environ["E2E_MODEL"]
# `fake` or `vllm`.
ENGINE = os.environ["E2E_ENGINE"]


def ask(url, body=None, timeout=30):
    """The JSON that a URL answers, to a POST if there is a body; an error status is an exception."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def gauge(engine, name):
    """The sum of a metric over its labels on an engine."""
    total = 0.0
    with urllib.request.urlopen(f"{engine}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                total += float(line.rsplit(" ", 1)[1])
    return total


def running_requests():
    """The requests that the engines run now, by their own metrics."""
    return sum(gauge(engine, "vllm:num_requests_running") for engine in ENGINES)


def wait_until(condition, seconds):
    """Whether the condition holds at some moment within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
