"""What a ``with`` block can do, its decorator can: for every kind of function."""

import asyncio
import functools
import inspect
import pickle
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd import is_grad_enabled, no_grad, tensor
from autograd.kernels import kernels_enabled
from autograd.modes import current_observers, current_recorder


class Observer:
    def visit(self, node, cotangent):
        pass

    def edge(self, node, name, parent, contribution):
        pass


OBSERVER = Observer()


def state():
    recorder = current_recorder.get()
    return (
        is_grad_enabled(),
        type(recorder).__name__,
        getattr(recorder, "copies", None),
        tuple(type(observer).__name__ for observer in current_observers()[-1:]),  # the innermost
        autograd.kernels._wanted,
    )


BLOCKS = {
    "no_grad": no_grad,
    "enable_grad": autograd.enable_grad,
    "detect_anomaly": autograd.detect_anomaly,
    "debug": autograd.debug,
    "record": autograd.record,
    "observe": lambda: autograd.observe(OBSERVER),
    "use_kernels": lambda: autograd.use_kernels(False),
}


@pytest.fixture(params=BLOCKS)
def block(request):
    """A maker of blocks, in surroundings in which each of them changes something."""
    with no_grad() if request.param == "enable_grad" else autograd.enable_grad():
        with autograd.use_kernels(True):
            yield BLOCKS[request.param]


@pytest.fixture
def inside(block):
    outside = state()
    with block():
        inside = state()
    assert inside != outside and state() == outside
    return inside


def test_functions_and_methods(block, inside):
    outside = state()

    @block()
    def function(*args, **kwargs):
        """Say where it is."""
        return args, kwargs, state()

    class Thing:
        @block()
        def method(self):
            return state()

        @block()
        @staticmethod
        def static(x):
            return state()

        @block()
        @classmethod
        def of_class(cls):
            return cls, state()

        @property
        @block()
        def proper(self):
            return state()

    assert function.__doc__ == "Say where it is." and function.__name__ == "function"
    assert function(1, x=2) == ((1,), {"x": 2}, inside)
    thing = Thing()
    assert thing.method() == thing.static(1) == Thing.static(1) == thing.proper == inside
    assert Thing.of_class() == thing.of_class() == (Thing, inside)
    assert block()(functools.partial(function, 1))(x=2) == ((1,), {"x": 2}, inside)
    assert state() == outside
    with pytest.raises(ZeroDivisionError):
        block()(lambda: 1 / 0)()
    assert state() == outside


def test_a_decorated_function_may_call_itself(block, inside):
    @block()
    def down(n):
        before = state()
        return [before] if n == 0 else [before, *down(n - 1), state()]

    assert set(down(3)) == {inside}


def conversation(generator):
    """A generator that answers whatever is done to it, and says in what state."""
    while True:
        try:
            given = yield (generator, state())
            generator = f"sent {given}"
        except KeyError as error:
            generator = f"caught {error}"
        except GeneratorExit:
            SEEN.append(("closed", state()))
            raise
        finally:
            SEEN.append(state())
        if generator == "sent stop":
            return "done", state()


SEEN: list = []
ACTIONS = st.lists(
    st.sampled_from(["next", "send", "throw", "other", "stop", "close"]), min_size=1, max_size=6
)


def outcome(act):
    try:
        return act()
    except BaseException as error:
        return type(error).__name__, str(error), getattr(error, "value", None)


def act_on(generator, actions):
    """Do things to a generator; return what came of them, and what it saw."""
    SEEN.clear()
    outcomes, states = [], []
    for action in actions:
        outcomes.append(outcome({
            "next": lambda: next(generator),
            "send": lambda: generator.send("a"),
            "throw": lambda: generator.throw(KeyError("b")),
            "other": lambda: generator.throw(ValueError("c")),
            "stop": lambda: generator.send("stop"),
            "close": generator.close,
        }[action]))  # fmt: skip
        states.append(state())
    generator.close()
    return outcomes, list(SEEN), states


@given(actions=ACTIONS)
def test_generators(actions):
    """A decorated generator does what the plain one does inside the block."""
    for block in BLOCKS.values():
        with no_grad() if block is autograd.enable_grad else autograd.enable_grad():
            decorated = block()(conversation)
            assert inspect.isgeneratorfunction(decorated)
            outside = state()
            outcomes, seen, states = act_on(decorated("begun"), actions)
            assert set(states) == {outside}
            with block():
                expected = act_on(conversation("begun"), actions)
            assert (outcomes, seen) == expected[:2]


@given(actions=ACTIONS)
def test_asynchronous_generators(actions):
    async def talk(start):
        while True:
            try:
                await asyncio.sleep(0)
                given = yield (start, state())
                await asyncio.sleep(0)
                start = f"sent {given}"
            except KeyError as error:
                start = f"caught {error}"
            finally:
                SEEN.append(state())
            if start == "sent stop":
                return

    async def act(generator):
        SEEN.clear()
        outcomes, states = [], set()
        for action in actions:
            step = {
                "next": lambda: generator.__anext__(),
                "send": lambda: generator.asend("a"),
                "throw": lambda: generator.athrow(KeyError("b")),
                "other": lambda: generator.athrow(ValueError("c")),
                "stop": lambda: generator.asend("stop"),
                "close": generator.aclose,
            }[action]
            try:
                outcomes.append(await step())
            except BaseException as error:
                outcomes.append((type(error).__name__, str(error)))
            states.add(state())
        await generator.aclose()
        return outcomes, list(SEEN), states

    for block in (no_grad, autograd.record):
        decorated = block()(talk)
        assert inspect.isasyncgenfunction(decorated)
        outside = state()
        outcomes, seen, states = asyncio.run(act(decorated("begun")))
        assert states == {outside}
        with block():
            expected = asyncio.run(act(talk("begun")))
        assert (outcomes, seen) == expected[:2]


def test_coroutines(block, inside):
    """Others run in between, and see nothing of it; also whoever drives a coroutine by hand."""
    outside = state()
    others = []

    @block()
    async def work(n):
        seen = [state()]
        for _ in range(n):
            await asyncio.sleep(0)
            seen.append(state())
        try:
            await asyncio.wait_for(asyncio.sleep(10), 0.001)
        except TimeoutError:
            seen.append(state())
        return seen

    async def other():
        for _ in range(5):
            others.append(state())
            await asyncio.sleep(0)

    async def all_of_them():
        return (await asyncio.gather(work(3), other(), work(2), other()))[::2], await work(1)

    assert inspect.iscoroutinefunction(work)
    (first, second), third = asyncio.run(all_of_them())
    assert set(first + second + third) == {inside} and set(others) == {outside}

    class Pause:
        def __await__(self):
            return (yield "paused")

    @block()
    async def by_hand():
        return await Pause(), state()

    coroutine = by_hand()
    assert coroutine.send(None) == "paused" and state() == outside
    with pytest.raises(StopIteration) as stopped:
        coroutine.send("on")
    assert stopped.value.value == ("on", inside) and state() == outside


def test_context_managers():
    """The block holds while the manager is entered and left, in either order of the decorators."""

    def manage(seen):
        seen.append(is_grad_enabled())
        try:
            yield is_grad_enabled()
        finally:
            seen.append(is_grad_enabled())

    async def manage_async(seen):
        seen.append(is_grad_enabled())
        yield is_grad_enabled()
        seen.append(is_grad_enabled())

    for make in (lambda f: no_grad()(contextmanager(f)), lambda f: contextmanager(no_grad()(f))):
        seen = []
        with pytest.raises(ZeroDivisionError), make(manage)(seen) as value:
            assert is_grad_enabled() and not value
            raise ZeroDivisionError
        assert seen == [False, False]

    async def use(manager):
        async with manager as value:
            return is_grad_enabled(), value

    for make in (
        lambda f: no_grad()(asynccontextmanager(f)),
        lambda f: asynccontextmanager(no_grad()(f)),
    ):
        seen = []
        assert asyncio.run(use(make(manage_async)(seen))) == (True, False)
        assert seen == [False, False]


def test_callable_objects():
    class Generator:
        def __call__(self, n):
            for _ in range(n):
                yield is_grad_enabled()

    class Coroutine:
        async def __call__(self):
            await asyncio.sleep(0)
            return is_grad_enabled()

    class Function:
        def __call__(self):
            return is_grad_enabled()

    assert list(no_grad()(Generator())(2)) == [False, False]
    assert not asyncio.run(no_grad()(Coroutine())())
    assert not no_grad()(Function())()
    assert list(no_grad()(functools.partial(Generator().__call__, 2))()) == [False, False]


@pytest.mark.parametrize("block", [no_grad, autograd.enable_grad, autograd.detect_anomaly,
                                   autograd.debug])  # fmt: skip
def test_without_parentheses(block):
    with no_grad() if block is autograd.enable_grad else autograd.enable_grad():
        outside = state()

        @block
        def function():
            return state()

        assert function() == block()(state)() != outside


def test_each_call_is_a_recording_of_its_own():
    @autograd.record()
    def loss(x):
        y = x * x
        return y.sum()

    @autograd.record()
    def losses(x):
        y = x * x
        yield y
        yield y.sum()

    x = tensor([1.0, 2.0], requires_grad=True)
    first, second = (loss(x)._node.recording for _ in range(2))
    assert first is not second and len(first.calls) == len(second.calls) == 2
    (part, whole) = losses(x)
    assert part._node.recording is whole._node.recording
    assert len(part._node.recording.calls) == 2
    assert list(autograd.stepper.trace(whole).recording.names.values()).count("y") == 1


def test_decorated_functions_go_by_name():
    assert pickle.loads(pickle.dumps(decorated_function)) is decorated_function


@no_grad()
def decorated_function():
    pass


def test_what_cannot_be_decorated():
    for thing, message in ((Observer, "a class.*each method"), (property(state), "property"),
                           (3, "type int")):  # fmt: skip
        for block in BLOCKS.values():
            before = state()
            with pytest.raises(TypeError, match=f"cannot decorate .*{message}"):
                block()(thing)
            assert state() == before
    for action, message in (
        (lambda: autograd.record(state), "record: .*@record\\(\\)"),
        (lambda: autograd.use_kernels(state), "use_kernels: .*@use_kernels\\(True\\)"),
        (lambda: autograd.use_kernels("no"), "use_kernels: 'no' is no bool"),
        (lambda: autograd.observe(state), "no methods visit and edge"),
    ):
        with pytest.raises(TypeError, match=message):
            action()


def test_kernels_are_on_outside_of_a_decorated_function():
    before = kernels_enabled()

    @autograd.use_kernels(False)
    def without():
        return kernels_enabled()

    assert kernels_enabled() == before and not without() and kernels_enabled() == before


def test_a_wrong_argument_is_an_error_of_the_function():
    @no_grad()
    def function(x):
        return np.exp(x)

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        function()
