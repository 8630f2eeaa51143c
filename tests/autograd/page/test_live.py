"""A page whose values can be changed: the answers, against programs that run with other values."""

import json

import numpy as np
import pytest

import autograd
from autograd import nn
from autograd.page import live as live_module
from autograd.page.contents import collect
from autograd.page.live import Live
from autograd.stepper import trace


class Net:
    """A net of two layers whose first layer is an embedding, with a mask; and its page."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.E = autograd.tensor(rng.normal(size=(5, 4)), requires_grad=True)
        self.W = autograd.tensor(rng.normal(size=(4, 3)), requires_grad=True)
        self.arrays = dict(ids=np.array([4, 0, 2]), mask=np.array([True, True, False]),
                           targets=np.array([0, 2, 1]), scale=rng.normal(size=(3, 4)))  # fmt: skip
        self.loss = self.run(self.E, self.W, **self.arrays)
        self.live = Live(trace(self.loss))
        self.page = dict(self.live._contents)

    @staticmethod
    def run(E, W, ids, mask, targets, scale):
        with autograd.record():
            h = nn.embedding(ids, E) * scale
            kept = np.where(mask[:, None], h, 0.0)
            logits = kept @ W
            loss = nn.cross_entropy(logits, targets)
        return loss

    def number(self, name):
        return self.live.session.find(name)

    def ask(self, do, **request):
        answer = self.live.answer({"do": do, "version": self.live.version, **request})
        if "contents" in answer:  # as the page does
            self.page |= answer["contents"] | {"arrays": [
                self.page["arrays"][x] if isinstance(x, int) else x
                for x in answer["contents"]["arrays"]
            ]}  # fmt: skip
        return answer

    def gradients(self, **changed):
        """The loss and the gradients of the program with other values."""
        E, W = (autograd.tensor(changed.pop(name, getattr(self, name).numpy()), requires_grad=True)
                for name in "EW")  # fmt: skip
        loss = self.run(E, W, **self.arrays | changed)
        loss.backward()
        return loss.item(), E.grad.numpy(), W.grad.numpy()

    def shown(self, name, kind="array"):
        """An array as the page has it."""
        contents = self.live._contents
        entry = contents["values"][self.number(name)][kind]
        return self.live._arrays.kept[entry]


@pytest.mark.parametrize(
    ("name", "flat", "to"),
    [("W", 7, 2.5), ("E", 17, -1.0), ("scale", 0, 0.25), ("ids", 1, 3), ("targets", 1, 0)],
)
def test_an_element_gets_another_value(name, flat, to):
    """A weight, an input, a token: everything is as if the program had run with it."""
    net = Net()
    before = net.loss.item()
    whole = {**net.arrays, "E": net.E.numpy(), "W": net.W.numpy()}[name].copy()
    whole.flat[flat] = to
    loss, dE, dW = net.gradients(**{name: whole})
    trial = net.ask("try", value=net.number(name), flat=flat, to=to)
    assert "contents" not in trial and net.live.version == 0
    assert net.shown("loss") == before
    answer = net.ask("set", value=net.number(name), flat=flat, to=to)
    assert trial["outcome"] == answer["outcome"] and net.live.version == 1
    assert answer["outcome"]["rows"][0] == ("loss", f"{before:.4g}", f"{loss:.4g}")
    assert f"true change {loss - before:+.4g}" in answer["outcome"]["notes"][0]
    assert np.isclose(net.shown("loss"), loss, rtol=1e-12)
    assert np.allclose(net.shown("E", "cotangent"), dE, rtol=1e-12)
    assert np.allclose(net.shown("W", "cotangent"), dW, rtol=1e-12)
    assert net.shown("loss", "earlier_array") == before
    assert np.array_equal(net.shown(name), whole)
    json.dumps(answer, allow_nan=False)


def test_a_mask_off_the_tape_has_a_number():
    """The mask has no name of a variable; the call that reads it says its number."""
    net = Net()
    call = next(c for c in net.live._contents["calls"] if c["op"] == "where")
    answer = net.ask("set", value=call["off_tape"]["condition"], flat=2, to=1)
    loss, *_ = net.gradients(mask=np.array([True, True, True]))
    assert np.isclose(net.shown("loss"), loss, rtol=1e-12)
    assert "error" in net.ask("set", value=call["off_tape"]["condition"], flat=2, to=2), answer


def test_a_cotangent_gets_another_value():
    """The gradients behind it are those of the rules; the loss stays; the page says replaced."""
    net = Net()
    kept, before = net.shown("kept"), net.shown("W", "cotangent")
    g = net.shown("logits", "cotangent").copy()
    g.flat[4] = 3.0
    request = dict(cotangent=net.number("logits"), flat=4, to=3.0)
    trial, answer = net.ask("try", **request), net.ask("set", **request)
    assert trial["outcome"] == answer["outcome"]
    assert {name for name, *_ in answer["outcome"]["rows"]} == {"d(E)", "d(W)"}
    assert np.array_equal(net.shown("logits", "cotangent"), g)
    assert np.allclose(net.shown("W", "cotangent"), kept.T @ g, rtol=1e-12)
    assert np.array_equal(net.shown("W", "earlier_cotangent"), before)
    values = answer["contents"]["values"]
    assert [values[net.number(n)]["replaced"] for n in ("logits", "loss")] == [True, False]


def test_descending_and_undoing():
    net = Net()
    first = json.dumps(net.live._contents)
    loss, dE, dW = net.gradients()
    lower, *_ = net.gradients(E=net.E.numpy() - 0.1 * dE, W=net.W.numpy() - 0.1 * dW)
    assert net.ask("descend", rate=0.1)["contents"]["changes"] == 1
    assert np.isclose(net.shown("loss"), lower, rtol=1e-12) and lower < loss
    net.ask("set", value=net.number("W"), flat=0, to=9)
    assert net.ask("undo")["contents"]["changes"] == 1
    assert np.isclose(net.shown("loss"), lower, rtol=1e-12)
    for action in ("undo", "reset"):
        net.ask(action)
        assert net.page == net.live._contents and net.page["changes"] == 0
        assert json.dumps({**net.page, "version": 0}) == first
        net.ask("descend", rate=0.1)


def test_the_answer_has_what_has_changed():
    """The source, the graph and the arrays before the change are not sent again."""
    net = Net()
    first = net.live._contents
    answer = net.ask("set", value=net.number("W"), flat=0, to=9)
    assert net.page == net.live._contents
    assert not {"files", "graphs", "texts", "start"} & answer["contents"].keys()
    sent = [x for x in answer["contents"]["arrays"] if not isinstance(x, int)]
    assert 0 < len(sent) < len(first["arrays"])
    E = net.live._contents["values"][net.number("E")]
    assert answer["contents"]["arrays"][E["array"]] == first["values"][net.number("E")]["array"]
    assert isinstance(answer["contents"]["arrays"][E["earlier_cotangent"]], int)
    assert not isinstance(answer["contents"]["arrays"][E["cotangent"]], int)


def test_a_replaced_result_is_a_leaf():
    net = Net()
    answer = net.ask("set", value=net.number("kept"), flat=0, to=1.0)
    assert [call["op"] for call in answer["contents"]["calls"]] == ["matmul", "cross_entropy"]


def test_an_old_version_changes_nothing():
    """The page of another tab gets what there is now."""
    net = Net()
    net.ask("descend", rate=0.1)
    before = net.shown("loss")
    answer = net.live.answer({"do": "undo", "version": 0})
    assert "another page" in answer["error"] and answer["contents"]["version"] == 1
    assert net.shown("loss") == before


EVIL = "__import__('os').system('touch owned')"


@pytest.mark.parametrize(
    "request_",
    [
        [], None, "set", 3, {}, {"do": EVIL}, {"do": ["set"]}, {"do": "quit"}, {"do": "undo"},
        {"do": "descend", "rate": EVIL}, {"do": "descend"}, {"do": "descend", "rate": float("nan")},
        {"do": "set", "value": "W", "flat": 0, "to": 1.0}, {"do": "set"},
        {"do": "set", "value": True, "flat": 0, "to": 1.0},
        {"do": "set", "value": {"n": 1}, "flat": 0, "to": 1.0},
        {"do": "set", "value": "W number", "flat": 0, "to": EVIL},
        {"do": "set", "value": "W number", "flat": 0, "to": None},
        {"do": "set", "value": "W number", "flat": 0, "to": 10**400},
        {"do": "set", "value": "W number", "flat": -1, "to": 1.0},
        {"do": "set", "value": "W number", "flat": 12, "to": 1.0},
        {"do": "set", "value": "W number", "flat": "0", "to": 1.0},
        {"do": "set", "value": "W number", "flat": [0], "to": 1.0},
        {"do": "set", "value": "ids number", "flat": 0, "to": 5},
        {"do": "set", "value": "ids number", "flat": 0, "to": 0.5},
        {"do": "set", "value": "ids number", "flat": 0, "to": 10**30},
        {"do": "set", "cotangent": "W number", "flat": 0, "to": 1.0},
        {"do": "set", "cotangent": [1], "flat": 0, "to": 1.0},
        {"do": "try", "cotangent": "logits number", "flat": 9, "to": 1.0},
    ],
)  # fmt: skip
def test_clumsy_and_hostile_requests(request_, tmp_path, monkeypatch):
    """Each is refused in one line, and changes nothing."""
    monkeypatch.chdir(tmp_path)
    net = Net()
    if isinstance(request_, dict):
        request_ = {"version": 0} | {
            key: net.number(x.split()[0]) if str(x).endswith(" number") else x
            for key, x in request_.items()
        }
    answer = net.live.answer(request_)
    assert list(answer) == ["error"] and "\n" not in answer["error"]
    assert net.live.version == 0 and not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_shown():
    net = Net()
    answer = net.ask("set", value=net.number("W"), flat=0, to=float("inf"))
    assert "contents" in answer
    json.dumps(answer, allow_nan=False)


def test_large_arrays_can_be_fetched_whole(monkeypatch):
    monkeypatch.setattr(live_module, "MOST", 40)
    net = Net()
    contents = net.live._contents
    entry = contents["values"][net.number("E")]["array"]
    assert "kept" in contents["arrays"][entry]
    found = np.frombuffer(net.live.array(entry, 0), "<f8").reshape(5, 4)
    assert np.array_equal(found, net.E.numpy())
    for wrong in [(-1, 0), (len(contents["arrays"]), 0), (entry, 1), ("0", 0), (None, None)]:
        with pytest.raises(ValueError, match="there is no such array"):
            net.live.array(*wrong)


def test_a_cotangent_that_a_hook_replaced_is_shown_as_the_rule_got_it():
    x = autograd.tensor([1.0, 2.0], requires_grad=True)
    with autograd.record():
        y = x * x
        y.register_hook(lambda g: 10 * g)
        loss = y.sum()
    found = trace(loss)
    contents = collect(found, arrays := live_module.Arrays())
    entry = contents["values"][found.recording.number("y")]
    assert entry["replaced"] and arrays.kept[entry["cotangent"]].tolist() == [10, 10]
