"""The benchmark client of the Python sageLLM: `run` and `compare`, each strategy really switched.

The client says "not supported, continuing" when a switch fails and then compares one strategy with
itself, so nothing that it prints about switches is believed: what counts is under which strategy
the gateway decided on each request. Its GPU figures are invented where it sees no GPU.
"""

import collections
import json
import pathlib
import subprocess
import sys
import unittest

from _fleet import ENGINE, URL, ask

CLIENT = pathlib.Path(sys.executable).with_name("sage-cp-bench")
STRATEGIES = ["fifo", "priority", "slo_aware", "cost_optimized", "adaptive"]
# What `adaptive` chooses among; the gateway notes the one that decided.
CHOICES = {"fifo", "priority", "slo_aware", "cost_optimized"}
WARM_UP = 1
# Real engines on a processor are slow.
REQUESTS, RATE = (21, 20) if ENGINE == "fake" else (5, 2)


def bench(command, output, *options, mode="llm", requests=REQUESTS):
    """Runs the client and returns its results."""
    run = subprocess.run(
        [CLIENT, command, "--mode", mode, *options, "--control-plane", URL,
         "--requests", str(requests), "--rate", str(RATE), "--warmup", str(WARM_UP),
         "--no-visualize", "--output", output],
        capture_output=True, text=True, timeout=240,
    )
    said = run.stdout + run.stderr
    if run.returncode or "not supported, continuing" in said:
        raise AssertionError(f"sage-cp-bench {command} went wrong:\n{said}")
    (results,) = pathlib.Path(output).glob("*_results.json")
    return json.loads(results.read_text())["policy_results"]


def counts():
    return ask(f"{URL}/admin/report")["requests"]


def decided_since(submitted):
    """The strategies that decided on the requests after the first so many, and how often each."""
    fresh = counts()["submitted"] - submitted
    decisions = ask(f"{URL}/admin/explain?last={fresh}")["decisions"]
    return collections.Counter(decision["strategy"] for decision in decisions)


class SageControlPlaneBenchmark(unittest.TestCase):
    def setUp(self):
        self.before = counts()

    def check_results(self, results, requests=REQUESTS):
        """All requests finished, by the client's count and by the gateway's."""
        for policy, result in results.items():
            counted = result["metrics"]["request_counts"]
            expected = {"completed": requests - WARM_UP, "failed": 0, "timeout": 0}
            self.assertEqual({key: counted[key] for key in expected}, expected, policy)
        after = counts()
        gained = {key: after[key] - self.before[key] for key in after}
        sent = requests * len(results)
        wanted = dict.fromkeys(gained, 0) | {"submitted": sent, "finished": sent}
        self.assertEqual(gained, wanted)

    def test_a_run_is_decided_by_its_strategy(self):
        for strategy in ("priority", "slo_aware"):
            self.setUp()
            results = bench("run", f"run-{strategy}", "--policy", strategy)
            self.assertEqual(list(results), [strategy])
            self.check_results(results)
            self.assertEqual(ask(f"{URL}/admin/policy")["policy"], strategy)
            self.assertEqual(
                decided_since(self.before["submitted"]), {strategy: REQUESTS}
            )

    def test_a_comparison_switches_to_every_strategy(self):
        # Another one than the first of the comparison, whose switch would show nothing.
        ask(f"{URL}/admin/set_policy", {"policy": "cost_optimized"})
        results = bench("compare", "compare", "--policies", ",".join(STRATEGIES))
        self.assertEqual(sorted(results), sorted(STRATEGIES))
        self.check_results(results)
        intervals = ask(f"{URL}/admin/report")["strategy_intervals"]
        switched = [i["strategy"] for i in intervals if i["reason"] == "set by operator"]
        self.assertEqual(switched[-len(STRATEGIES) :], STRATEGIES)
        self.assertEqual(ask(f"{URL}/admin/policy")["policy"], "adaptive")
        decided = decided_since(self.before["submitted"])
        for strategy in CHOICES:
            self.assertGreaterEqual(decided[strategy], REQUESTS, decided)
        self.assertEqual(sum(decided.values()), REQUESTS * len(STRATEGIES))
        self.assertLessEqual(set(decided), CHOICES)

    def test_the_metrics_that_it_reads_are_there(self):
        metrics = ask(f"{URL}/admin/metrics")
        self.assertIn("policy", metrics)

    def test_a_strategy_that_is_not_offered_is_an_error_and_changes_nothing(self):
        before = ask(f"{URL}/admin/policy")["policy"]
        with self.assertRaises(AssertionError):
            bench("run", "run-aegaeon", "--policy", "aegaeon", requests=WARM_UP + 1)
        self.assertEqual(ask(f"{URL}/admin/policy")["policy"], before)

    @unittest.skipIf(ENGINE == "vllm", "the real engines were started to generate")
    def test_a_mix_with_embeddings_is_answered(self):
        # `hybrid` alone mixes, by the client's rules, and no such strategy is offered: the switch
        # fails, so only that every answer comes is looked at.
        run = subprocess.run(
            [CLIENT, "run", "--mode", "hybrid", "--policy", "hybrid", "--control-plane", URL,
             "--requests", str(REQUESTS), "--rate", str(RATE), "--warmup", str(WARM_UP),
             "--no-visualize", "--output", "hybrid"],
            capture_output=True, text=True, timeout=240,
        )
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        after = counts()
        self.assertEqual(after["finished"] - self.before["finished"], REQUESTS)
        self.assertEqual(after["failed"], self.before["failed"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
