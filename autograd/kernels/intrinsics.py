"""What Numba does not offer: pointers from addresses, atomic counters, prefetching.

Each function writes the instruction of LLVM, the compiler behind Numba, that it stands for. They
serve kernels whose threads work through one list (`decode`), and loops that read memory in an order
no processor can guess (`embedding`).
"""

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, overload


def _pointer_to(kind):
    """Make a function that reads an integer as the address of a number of this kind."""

    @intrinsic
    def pointer(context, address):
        def build(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), build

    return pointer


floats, bytes_, counts = map(_pointer_to, (types.float32, types.int8, types.int64))


@intrinsic
def draw(context, counter):
    """Add 1 to the number at a pointer and return the number before, as one atomic operation.

    If two threads call at the same time and the number is 5, one gets 5, the other 6, and it is 7.
    """

    def build(context, builder, signature, args):
        one = context.get_constant(types.int64, 1)
        return builder.atomic_rmw("add", args[0], one, "seq_cst")

    return types.int64(types.CPointer(types.int64)), build


@intrinsic
def read(context, counter):
    """Read the number at a pointer, as an atomic operation.

    The compiler may not keep the number in a register, so a loop sees the changes of other threads.
    And if this thread sees a number that another has written, it sees all that the other thread
    wrote before it.
    """

    def build(context, builder, signature, args):
        return builder.load_atomic(args[0], "seq_cst", 8)

    return types.int64(types.CPointer(types.int64)), build


yield_processor = types.ExternalFunction(
    "sched_yield", types.int32()
)  # on systems that have it: not Windows


def prefetch(address):
    """Ask the processor to bring the cache line at an address into its caches, and go on.

    The address may be invalid: then nothing happens. Uncompiled, the function does nothing.
    """


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
