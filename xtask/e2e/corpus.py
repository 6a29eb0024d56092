"""One list of requests to the fake engine and to real vLLM: do they answer alike?

Compared are the status, the headers that clients read, errors word for word, and of everything
else the shape: which keys there are and of which type, which kinds of events a stream is made of, why
answers ended and how many tokens they had.

With `--engine vllm` both run side by side. With fake engines the fake is compared with
`vllm_answers.json`, which holds what real vLLM answered when it was last asked (`--record` writes
it anew). In both cases every request is also sent through the gateway, which must answer as the
engine behind it does.

`allowed_differences.toml` lists what may differ, each with its reason; one that no longer occurs is
an error, as it is for a difference that is not listed.
"""

import http.client
import json
import os
import pathlib
import re
import sys
import tomllib
import urllib.parse
import uuid

from _fleet import ENGINE, ENGINES, URL

HERE = pathlib.Path(__file__).parent
RECORDED = HERE / "vllm_answers.json"
# The headers that clients read; `server` and `date` are nobody's business.
HEADERS = ["content-type", "allow", "retry-after", "location"]
# The keys of these objects are data, not a shape.
FREE_KEYS = re.compile(r"\.logprobs\.top_logprobs\[\]$")
# Asked three times, a prompt is in the cache of each of two engines that take turns.
WARM_ROUNDS = 3


# ---- asking


def expand(value):
    """A body with `{"$repeat": [what, times]}` and `"$unique"` written out."""
    if isinstance(value, dict):
        if set(value) == {"$repeat"}:
            what, times = value["$repeat"]
            return what * times
        return {key: expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item) for item in value]
    return uuid.uuid4().hex if value == "$unique" else value


def ask(base, case):
    """What a server answers to a case, described."""
    method = case.get("method") or ("POST" if "post" in case else "GET")
    path = case.get("path") or case.get("post") or case["get"]
    headers, data = dict(case.get("headers", {})), None
    if "raw" in case:
        data = case["raw"].encode()
    elif "body" in case:
        data = json.dumps(expand(case["body"])).encode()
    if data is not None:
        headers.setdefault("Content-Type", "application/json")
    headers = {name: value for name, value in headers.items() if value is not None}
    for _ in range(WARM_ROUNDS if case.get("warm") else 1):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=60)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            body = answer.read()
        except (http.client.HTTPException, OSError) as error:
            return {"status": f"no answer: {error!r}"}
        finally:
            connection.close()
    return describe(answer, body, headers)


# ---- describing


def describe(answer, body, sent):
    """An answer as a flat map from places to what is there."""
    out = {"status": answer.status}
    for name in HEADERS:
        if answer.headers[name] is not None:
            out[f"header {name}"] = answer.headers[name]
    identity = answer.headers["x-request-id"]
    if identity is not None:
        wanted = next((v for k, v in sent.items() if k.lower() == "x-request-id"), None)
        out["header x-request-id"] = "as given" if identity == wanted else "made"
    kind = answer.headers["content-type"] or ""
    if not body:
        out["body"] = "empty"
    elif kind.startswith("application/json"):
        out |= describe_json(json.loads(body))
    elif kind.startswith("text/event-stream"):
        out |= describe_stream(body.decode())
    else:
        out["body"] = "text"
    return out


def describe_json(value):
    """An error word for word, another value by its shape and its few telling contents."""
    out = {}
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        return {f"error.{key}": item for key, item in error.items()}
    shape(value, "body", out)
    return flat(out) | {f"fact {key}": item for key, item in facts([value]).items()}


def describe_stream(text):
    """The shape of each kind of event, and how the stream ends."""
    kinds, values = {}, []
    events = [event for event in text.split("\n\n") if event]
    for event in events:
        assert event.startswith("data: "), f"not an event of one line: {event!r}"
        data = event.removeprefix("data: ")
        if data == "[DONE]":
            continue
        value = json.loads(data)
        values.append(value)
        shape(value, "", kinds.setdefault(kind_of(value), {}))
    described = {"stream ends with": events[-1] if events else "nothing"}
    for kind, out in kinds.items():
        described |= {f"event {kind}{path}": item for path, item in flat(out).items()}
    # A last token that completes no character comes without text.
    described.pop("event end.choices[].delta.content", None)
    return described | {f"fact {key}": item for key, item in facts(values).items()}


def kind_of(event):
    """What an event of a stream is there for."""
    if not event.get("choices"):
        return "usage" if "usage" in event else "other"
    choice = event["choices"][0]
    delta = choice.get("delta") or {}
    if choice["finish_reason"]:
        return "end"
    if delta.get("role"):
        return "opening"
    if calls := delta.get("tool_calls"):
        return "call" if calls[0]["function"].get("name") else "arguments"
    return "piece"


def shape(value, path, out):
    """Notes the types in a value; the items of a list share one place."""
    if isinstance(value, dict):
        out.setdefault(path, set()).add("object")
        for key, item in value.items():
            shape(item, f"{path}.{'*' if FREE_KEYS.search(path) else key}", out)
    elif isinstance(value, list):
        out.setdefault(path, set()).add("list" if value else "empty list")
        for item in value:
            shape(item, f"{path}[]", out)
    else:
        names = {"NoneType": "null", "str": "text", "bool": "boolean"}
        out.setdefault(path, set()).add(names.get(type(value).__name__, "number"))


def flat(out):
    return {path: " or ".join(sorted(kinds)) for path, kinds in out.items()}


def facts(values):
    """What is the same whoever writes the text: of an answer, or of all the events of a stream."""
    out, finish = {}, {}
    for value in values:
        if not isinstance(value, dict):
            continue
        for key in ("object", "model", "detail", "version", "max_model_len"):
            if isinstance(value.get(key), (str, int)):
                out[key] = value[key]
        if isinstance(value.get("id"), str):
            out["id begins with"] = value["id"].split("-")[0]
        for choice in value.get("choices") or []:
            finish[choice["index"]] = choice.get("finish_reason") or finish.get(choice["index"])
        if isinstance(value.get("usage"), dict):
            usage = value["usage"]
            out["output tokens"] = usage["completion_tokens"]
            out["total adds up"] = (
                usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
            )
    if finish:
        out["finish reasons"] = ", ".join(f"{index}: {finish[index]}" for index in sorted(finish))
    return out


# ---- comparing


class Allowed:
    """The differences between two sides that are known and have a reason."""

    def __init__(self, entries):
        self.entries = [
            (self.pattern(entry["cases"]), self.pattern(entry["at"]), entry) for entry in entries
        ]
        self.used = set()

    @staticmethod
    def pattern(globs):
        return re.compile("|".join(re.escape(glob).replace(r"\*", ".*") for glob in globs))

    def has(self, case, place):
        for index, (cases, places, _) in enumerate(self.entries):
            if cases.fullmatch(case) and places.fullmatch(place):
                self.used.add(index)
                return True
        return False

    def unused(self):
        return [
            f"{entry['cases']} at {entry['at']}"
            for index, (_, _, entry) in enumerate(self.entries)
            if index not in self.used
        ]


def differences(expected, actual, allowed):
    """What differs and is not allowed to: the place and both sides, and the cases where."""
    found = {}
    for case, left in expected.items():
        right = actual[case]
        places = dict.fromkeys([*left, *right])
        if left["status"] != right["status"]:
            # The rest of two such answers has nothing in common.
            places = ["status", "error.message"]
        for place in places:
            one, other = left.get(place, "nothing"), right.get(place, "nothing")
            if one != other and not allowed.has(case, place):
                found.setdefault((place, str(one), str(other)), []).append(case)
    return found


def compare(title, sides, expected, actual, allowed):
    """Prints the differences; how many kinds there are, with those that are allowed in vain."""
    found = differences(expected, actual, allowed)
    for (place, one, other), cases in found.items():
        print(f"  {place}\n    {sides[0]}: {one}\n    {sides[1]}: {other}\n    in: {', '.join(cases)}")
    for entry in allowed.unused():
        print(f"  allowed, but it does not occur: {entry}")
    count = len(found) + len(allowed.unused())
    verdict = f"{count} kinds of differences" if count else "alike"
    print(f"{title}: {len(expected)} requests, {verdict}", flush=True)
    return count


def main():
    cases = json.loads((HERE / "corpus.json").read_text())
    names = [case["name"] for case in cases]
    assert len(set(names)) == len(names), "two requests have one name"
    allowed = tomllib.loads((HERE / "allowed_differences.toml").read_text())

    def answers(base):
        return {case["name"]: ask(base, case) for case in cases}

    def recorded():
        answers = json.loads(RECORDED.read_text())
        if list(answers) != sorted(names):
            sys.exit(f"{RECORDED.name} holds other requests than the corpus: record it anew")
        return answers

    direct = answers(ENGINES[0])
    found = 0
    if ENGINE == "vllm":
        if os.environ.get("E2E_RECORD"):
            RECORDED.write_text(json.dumps(direct, indent=1, sort_keys=True) + "\n")
        real, fake = direct, answers(os.environ["E2E_FAKE"])
        # What another processor rounds otherwise may differ here too.
        stale = differences(recorded(), real, Allowed(allowed["fake"]))
        if stale:
            print(f"{RECORDED.name} is not what vLLM answers (--record writes it anew): {stale}")
            found += len(stale)
    else:
        real, fake = recorded(), direct
    found += compare("fake and real", ("real", "fake"), real, fake, Allowed(allowed["fake"]))
    through = answers(URL)
    gateway = Allowed(allowed["gateway"])
    found += compare("engine and gateway", ("engine", "gateway"), direct, through, gateway)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
