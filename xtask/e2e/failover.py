"""An engine is killed under load, and comes back.

No request may fail that had not begun to answer: not one that answers whole, and no stream before
its first piece. A stream that had begun on the killed engine breaks, and its client is told. The
engine is used again by itself once it has started again.
"""

import json
import os
import signal
import subprocess
import threading
import time
import unittest
import urllib.parse

import openai

from _fleet import ENGINE, ENGINES, MODEL, URL, ask, gauge, wait_until

STARTS = json.loads(os.environ["E2E_STARTS"])
VICTIM = 0
NAME = f"engine-{VICTIM}"
# Clients of each kind, and the length of their answers: enough that several are on the victim, and
# that some have begun there, when it dies.
CLIENTS, TOKENS = (6, 60) if ENGINE == "fake" else (3, 100)
# Before the kill, and after it.
LOAD_SECONDS = (2, 5) if ENGINE == "fake" else (5, 12)
# What must not happen to a stream that breaks.
SILENT = "the stream ended without a reason"
ASKED = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Name three rivers."}],
    "max_tokens": TOKENS,
    "extra_body": {"ignore_eos": True},
}


def client():
    """A client that never tries twice: a failure must be seen."""
    return openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=120)


# ---- the process to kill


def listeners(port):
    """The processes that listen on a port of the loopback."""
    inodes = set()
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in list(table)[1:]:
            fields = line.split()
            # 0A: it listens.
            if fields[3] == "0A" and int(fields[1].split(":")[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            # It has ended, or is somebody else's.
            continue
        if inodes & set(links):
            found.append(int(pid))
    return found


def with_descendants(pids):
    """The processes and all that they started."""
    parents = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                # The name, in parentheses, may hold anything.
                parents[int(pid)] = int(stat.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = set(pids)
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


# ---- load


class Load:
    """Clients that ask one request after the other until they are told to stop."""

    def __init__(self):
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.outcomes = []
        kinds = [self.whole, self.stream] * CLIENTS
        self.threads = [threading.Thread(target=self.repeat, args=(kind,)) for kind in kinds]
        for thread in self.threads:
            thread.start()

    def repeat(self, ask_one):
        openai_client = client()
        while not self.done.is_set():
            outcome = {"kind": ask_one.__name__, "begun": False, "instance": None, "error": None}
            outcome["from"] = time.monotonic()
            try:
                ask_one(openai_client, outcome)
            except openai.OpenAIError as error:
                outcome["error"] = repr(error)
            outcome["to"] = time.monotonic()
            with self.lock:
                self.outcomes.append(outcome)

    def whole(self, openai_client, outcome):
        raw = openai_client.chat.completions.with_raw_response.create(**ASKED)
        outcome["instance"] = raw.headers["x-sagellm-instance"]
        assert raw.parse().usage.completion_tokens == TOKENS

    def stream(self, openai_client, outcome):
        raw = openai_client.chat.completions.with_raw_response.create(**ASKED, stream=True)
        outcome["instance"] = raw.headers["x-sagellm-instance"]
        finish = None
        for chunk in raw.parse():
            outcome["begun"] = True
            finish = chunk.choices[0].finish_reason or finish
        if finish != "length":
            # A stream that just stops would look like a short answer.
            raise openai.OpenAIError(SILENT)

    def stop(self):
        self.done.set()
        for thread in self.threads:
            thread.join()
        return self.outcomes


class Failover(unittest.TestCase):
    def test_an_engine_that_is_killed_under_load_costs_no_request_that_had_not_begun(self):
        load = Load()
        try:
            time.sleep(LOAD_SECONDS[0])
            running = lambda: gauge(ENGINES[VICTIM], "vllm:num_requests_running") >= 2
            self.assertTrue(wait_until(running, 20), "nothing runs on the engine to kill")
            doomed = with_descendants(listeners(urllib.parse.urlsplit(ENGINES[VICTIM]).port))
            self.assertTrue(doomed, "nobody listens on the engine's port")
            killed = time.monotonic()
            for pid in doomed:
                os.kill(pid, signal.SIGKILL)
            time.sleep(LOAD_SECONDS[1])
        finally:
            outcomes = load.stop()
        failed = [outcome for outcome in outcomes if outcome["error"]]
        hit = [o for o in outcomes if o["from"] < killed < o["to"]]
        requests = ask(f"{URL}/admin/snapshot")["requests"]
        print(
            f"{len(outcomes)} requests, {len(hit)} running when {NAME} was killed; "
            f"{requests['retries']} tried again, {len(failed)} streams broke",
            flush=True,
        )
        self.assertEqual([o for o in failed if not (o["kind"] == "stream" and o["begun"])], [])
        # Only streams of the victim break, and only those that ran there when it died.
        for outcome in failed:
            self.assertEqual(outcome["instance"], NAME, outcome)
            self.assertLess(outcome["from"], killed, outcome)
            self.assertNotIn(SILENT, outcome["error"])
        # Something was at stake: requests did move elsewhere.
        self.assertGreater(requests["retries"], 0)
        after = [o for o in outcomes if o["from"] > killed + 1]
        self.assertTrue(after, "nothing was asked after the kill")
        self.assertEqual({o["instance"] for o in after}, {"engine-1"})
        state = ask(f"{URL}/admin/instances/{NAME}")["state"]
        self.assertEqual(state, "error")
        self.comes_back()

    def comes_back(self):
        """Starts the engine again and waits until the gateway gives it requests by itself."""
        with open("restart.log", "wb") as log:
            engine = subprocess.Popen(STARTS[VICTIM], stdout=log, stderr=log)
        started = time.monotonic()
        openai_client = client()

        def serves():
            asked = ASKED | {"max_tokens": 1}
            raw = openai_client.chat.completions.with_raw_response.create(**asked)
            return raw.headers["x-sagellm-instance"] == NAME

        try:
            self.assertTrue(wait_until(serves, 30 if ENGINE == "fake" else 400))
            print(f"{NAME} serves again {time.monotonic() - started:.1f} s after its start")
            self.assertEqual(ask(f"{URL}/admin/instances/{NAME}")["incarnation"] > 1, True)
        finally:
            if ENGINE == "fake":
                # A real one belongs to the script that started it, which is told to end it.
                engine.terminate()
            engine.wait(timeout=60)


if __name__ == "__main__":
    unittest.main(verbosity=2)
