"""What Numba does not have: pointers from addresses, numbers that threads share, a look ahead."""

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, overload


def _pointer_to(kind):
    @intrinsic
    def pointer(context, address):
        def build(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), build

    return pointer


floats, bytes_, counts = map(_pointer_to, (types.float32, types.int8, types.int64))


@intrinsic
def draw(context, counter):
    """Add 1 to the number at a pointer, at once for all threads; return it as it was."""

    def build(context, builder, signature, args):
        one = context.get_constant(types.int64, 1)
        return builder.atomic_rmw("add", args[0], one, "seq_cst")

    return types.int64(types.CPointer(types.int64)), build


@intrinsic
def read(context, counter):
    """Read the number at a pointer from memory, with all that was written before it."""

    def build(context, builder, signature, args):
        return builder.load_atomic(args[0], "seq_cst", 8)

    return types.int64(types.CPointer(types.int64)), build


yield_processor = types.ExternalFunction("sched_yield", types.int32())  # where the system has it


def prefetch(address):
    """Ask for the cache line at an address, which need not exist; uncompiled, do nothing."""


@overload(prefetch)
def _(address):
    return lambda address: _prefetch(address)


@intrinsic
def _prefetch(context, address):
    def build(context, builder, signature, args):
        line = builder.inttoptr(args[0], ir.PointerType(ir.IntType(8)))
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [line.type, flag, flag, flag])
        ask = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(ask, [line, flag(0), flag(3), flag(1)])  # to read; into all caches; data
        return context.get_dummy_value()

    return types.void(types.int64), build
