"""Copies and pickles: a copied leaf is a new leaf, in every container and in every process."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd import no_grad, tensor
from npgpt import GPT, GPTConfig
from npgpt.generation.quantize import quantize
from npgpt.module import Parameter
from npgpt.training.optim import AdamW, adamw


def pickled(x):
    return pickle.loads(pickle.dumps(x))


WAYS = [copy.copy, copy.deepcopy, pickled]
DEEP = [copy.deepcopy, pickled]


class Scaled(autograd.Tensor):
    """A user's subclass, with an attribute."""

    scale = None


def leaf(*values, dtype=None):
    return tensor(list(values), requires_grad=True, dtype=dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_copied_leaf_is_a_new_leaf(way, dtype):
    a = leaf(1.0, 2.0, dtype=dtype)
    b = way(a)
    ga, gb = autograd.grad((3 * a).sum() + (5 * b).sum(), [a, b])
    assert (ga.tolist(), gb.tolist()) == ([3, 3], [5, 5])
    ((a * b).sum() + b.sum()).backward()
    assert (a.grad.tolist(), b.grad.tolist()) == ([1, 2], [2, 3])
    assert b.is_leaf and b.dtype == dtype and type(b) is type(a)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle(protocol):
    x, product = pickle.loads(pickle.dumps((leaf(1.0), autograd.REGISTRY["multiply"]), protocol))
    product(x, x).backward(np.ones(1))
    assert x.grad.tolist() == [2] and product is autograd.REGISTRY["multiply"]


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_keeps_what_pytorchs_keeps(way):
    """A deep copy has a gradient of its own; no copy has the hooks."""
    a, seen = leaf(1.0, 2.0), []
    a.register_hook(seen.append)
    a.grad = np.array([7.0, 7.0])
    b = way(a)
    assert (None if b.grad is None else b.grad.tolist()) == ([7, 7] if way in DEEP[:1] else None)
    (b * b).sum().backward()
    assert seen == [] and a.grad.tolist() == [7, 7]
    a.requires_grad_(False)
    c = way(a)
    assert not c.requires_grad and (c.grad is None) == (way is not copy.deepcopy)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_subclass(way):
    x = Scaled(np.ones(2))
    x.scale = [3]
    y = way(x.requires_grad_())
    assert type(y) is Scaled and y.scale == [3] and y.requires_grad
    assert (y.scale is x.scale) == (way is copy.copy)


@given(
    tree=st.recursive(
        st.integers(0, 2),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
        max_leaves=8,
    ),
    way=st.sampled_from(DEEP),
)
def test_leaves_in_containers(tree, way):
    """What is one leaf stays one leaf, and none is shared with the original."""
    leaves = [leaf(1.0), Parameter(np.ones(1)), tensor([1.0])]

    def put(tree):
        if isinstance(tree, int):
            return leaves[tree]
        if isinstance(tree, dict):
            return {key: put(value) for key, value in tree.items()}
        return [put(value) for value in tree]

    def flat(tree):
        if isinstance(tree, autograd.Tensor):
            return [tree]
        values = tree.values() if isinstance(tree, dict) else tree
        return [x for value in values for x in flat(value)]

    original = put(tree)
    old, new = flat(original), flat(way(original))
    assert [type(x) for x in old] == [type(x) for x in new]
    assert [[x is y for y in old] for x in old] == [[x is y for y in new] for x in new]
    assert not {id(x._array) for x in old} & {id(x._array) for x in new}
    assert [x.requires_grad for x in old] == [x.requires_grad for x in new]


@pytest.mark.parametrize("way", WAYS)
def test_a_result_is_not_copied(way):
    x = leaf(1.0, 2.0)
    for y in (x * 2, np.split(x, 2)[0], x[0], +x):
        with pytest.raises(TypeError, match=r"a result of \w+, .* cannot be copied.*detach"):
            way(y)
        assert not way(y.detach()).requires_grad
    with no_grad():
        assert way(x * 2).tolist() == [2, 4]
    with pytest.raises(TypeError, match="a result of add"):
        way({"loss": [x + 1]}) if way is not copy.copy else way(x + 1)
    with autograd.record() as recording:
        x * 2
    if way is not copy.copy:
        with pytest.raises(TypeError, match="the tape cannot be copied or pickled"):
            way(recording)


def test_a_gradient_on_the_tape_is_not_copied():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward(create_graph=True)
    with pytest.raises(TypeError, match="whose .grad is on the tape .* x.grad.detach"):
        copy.deepcopy(x)
    assert copy.copy(x).grad is None and pickled(x).grad is None
    x.grad = x.grad.detach()
    assert copy.deepcopy(x).grad.tolist() == [2, 4]


def test_arrays_of_copies():
    """A shallow copy shares the array, as in PyTorch; what is kept of it is still watched."""
    x = leaf(1.0, 2.0)
    for way in DEEP:
        y = way(x)
        with no_grad():
            y += 1
        assert x.tolist() == [1, 2]
    array = x.data
    y, other = copy.deepcopy((x, array))  # and what was shared stays shared
    other[0] = 9
    assert y.tolist() == [9, 2] and x.tolist() == [1, 2]
    loss = (y * y).sum()
    other[0] = 5
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
    twin = copy.copy(x)
    for write in (
        lambda: twin.data.__setitem__(0, 7),
        lambda: setattr(twin, "data", twin.data.__iadd__(1)),
    ):
        loss = (x * x).sum()
        write()
        assert twin.tolist() == x.tolist()
        with pytest.raises(RuntimeError, match="changed in place"):
            loss.backward()


@pytest.mark.parametrize("layout", [lambda a: a[::2], lambda a: a.T, lambda a: a[:0],
                                    lambda a: np.broadcast_to(a[0], a.shape)])  # fmt: skip
@pytest.mark.parametrize("way", DEEP)
def test_copies_of_views(layout, way):
    x = Parameter(layout(np.arange(12.0).reshape(3, 4)))
    y = way(x)
    assert np.array_equal(x.numpy(), y.numpy())
    with no_grad():
        y += 1
    assert y.size == 0 or not np.array_equal(x.numpy(), y.numpy())


def test_ops_go_by_name():
    for op in autograd.REGISTRY.values():
        assert copy.copy(op) is copy.deepcopy(op) is pickled(op) is op
    assert copy.copy(adamw) is copy.deepcopy(adamw) is pickled(adamw) is adamw
    stranger = autograd.Op(lambda x: x)
    assert copy.deepcopy([stranger]) == [stranger]
    with pytest.raises(TypeError, match="is not registered; make it with @autograd.op"):
        pickle.dumps(stranger)
    gone = pickle.dumps(autograd.REGISTRY["multiply"]).replace(b"multiply", b"multipl2")
    with pytest.raises(LookupError, match="registers no op named 'multipl2'"):
        pickle.loads(gone)


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    return GPT(config).eval()


IDS = np.array([[1, 2, 3, 4]])


@pytest.mark.parametrize("way", DEEP)
def test_a_copied_model(model, way):
    optimizer = AdamW(model.named_parameters())
    before = model(IDS)[0].numpy().copy()
    model(IDS, IDS)[1].backward()
    new, its_optimizer = way((model, optimizer))
    assert new.lm_head.weight is new.transformer.wte.weight  # tied still
    assert all(map(lambda x, y: x is y, new.parameters(), its_optimizer.parameters.values()))
    assert [n for n, _ in new.named_parameters()] == [n for n, _ in model.named_parameters()]
    new.zero_grad()
    new(IDS, IDS)[1].backward()
    for old, copied in zip(model.parameters(), new.parameters(), strict=True):
        np.testing.assert_array_equal(old.grad.numpy(), copied.grad.numpy())
    its_optimizer.step(0.1)
    assert not np.array_equal(new(IDS)[0].numpy(), before)
    np.testing.assert_array_equal(model(IDS)[0].numpy(), before)
    model.zero_grad()
    small = quantize(model)
    np.testing.assert_array_equal(way(small)(IDS)[0].numpy(), small(IDS)[0].numpy())


def _loss_and_gradients(model, ids):
    loss = model(ids, ids)[1]
    loss.backward()
    return float(loss.detach()), [p.grad for p in model.parameters()]


def test_a_model_in_another_process(model):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        loss, gradients = pool.apply(_loss_and_gradients, (model, IDS))
    assert all(p.grad is None for p in model.parameters())
    own_loss, own = _loss_and_gradients(model, IDS)
    model.zero_grad()
    assert loss == pytest.approx(own_loss, rel=1e-6)
    for there, here in zip(gradients, own, strict=True):
        np.testing.assert_allclose(there.numpy(), here.numpy(), rtol=1e-4, atol=1e-7)


class Slotted(Parameter):
    __slots__ = ("role",)


def test_slots_of_a_subclass_are_copied():
    """What a subclass keeps in slots goes along, and what was never set stays unset."""
    p, bare = Slotted(np.ones(3)), Slotted(np.ones(3))
    p.role = ["weight"]
    for q in (copy.copy(p), copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(q) is Slotted and q.role == ["weight"] and q.requires_grad
    assert copy.copy(p).role is p.role and copy.deepcopy(p).role is not p.role
    assert not hasattr(copy.deepcopy(bare), "role")
