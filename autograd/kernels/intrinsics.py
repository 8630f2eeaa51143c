"""What Numba does not offer: pointers, atomic numbers, kernels by address, prefetching.

Each function writes the instructions of LLVM, the compiler behind Numba, that it stands for. They
serve the threads that share a kernel (`team`), kernels whose threads work through one list
(`decode`), and loops that read memory in an order no processor can guess (`embedding`).
"""

import ctypes
import sys

import llvmlite.binding  # type: ignore[import-untyped]
from llvmlite import ir
from llvmlite.binding import Linkage
from numba import carray, types
from numba.core import cgutils
from numba.core.callconv import RETCODE_USEREXC, Status, excinfo_ptr_t
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array, make_view

WORD = ir.IntType(64)


def _pointer_to(kind):
    """Make a function that reads an integer as the address of a number of this kind."""

    @intrinsic
    def pointer(context, address):
        def build(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), build

    return pointer


floats, doubles, bytes_, counts = map(
    _pointer_to, (types.float32, types.float64, types.int8, types.int64)
)


def vector_at(like, address, n):
    """Return n numbers at an address as an array of the dtype of `like`, in compiled kernels."""
    raise RuntimeError("an address is read in compiled kernels only")


@overload(vector_at)
def _(like, address, n):
    pointer = floats if like.dtype == types.float32 else doubles
    return lambda like, address, n: carray(pointer(address), n)


def matrix_at(like, address, n_rows, row_length, n_columns):
    """Return a matrix at an address as an array; its rows are `row_length` numbers apart."""
    raise RuntimeError("an address is read in compiled kernels only")


@overload(matrix_at)
def _(like, address, n_rows, row_length, n_columns):
    pointer = floats if like.dtype == types.float32 else doubles

    def view(like, address, n_rows, row_length, n_columns):
        return carray(pointer(address), (n_rows, row_length))[:, :n_columns]

    return view


# ---- atomic numbers


def _exchange(operation):
    """Make a function of a pointer and a number that changes the number at the pointer.

    It returns the number before, as one atomic operation. If two threads add 1 at the same time and
    the number is 5, one thread gets 5, the other 6, and the number is 7.
    """

    @intrinsic
    def exchange(context, counter, number):
        def build(context, builder, signature, args):
            return builder.atomic_rmw(operation, *args, "seq_cst")

        return types.int64(types.CPointer(types.int64), types.int64), build

    return exchange


add = _exchange("add")  # add to the number at the pointer
swap = _exchange("xchg")  # replace the number at the pointer


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


@intrinsic
def pause(context):
    """Wait for some cycles of the processor, so that a thread that spins takes less power."""

    def build(context, builder, signature, args):
        machine = builder.module.triple.partition("-")[0]
        if machine in ("x86_64", "i686"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            hint = get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [ir.IntType(32)(1)])  # 1: "yield"
        return context.get_dummy_value()

    return types.void(), build


def _system_functions():
    """Return the C functions by which threads wait: to yield, to take a lock, and to open a lock.

    The locks are those of ``threading.Lock``. Their C functions may be called without the GIL.
    """
    python = ctypes.pythonapi
    if sys.platform == "win32":
        yields = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        yields = ctypes.CDLL(None).sched_yield
    return yields, python.PyThread_acquire_lock, python.PyThread_release_lock


try:
    _found = _system_functions()
    THREADS_CAN_WAIT = True
except (AttributeError, OSError):
    # The compiler needs an address for each name, also for functions that are never called.
    _found = 3 * (ctypes.pythonapi.PyErr_Occurred,)
    THREADS_CAN_WAIT = False

for _name, _function in zip(("yield", "lock", "unlock"), _found, strict=True):
    _address = ctypes.cast(_function, ctypes.c_void_p).value
    llvmlite.binding.add_symbol(f"autograd_{_name}", _address)

yield_processor = types.ExternalFunction("autograd_yield", types.int32())
lock = types.ExternalFunction("autograd_lock", types.int32(types.intp, types.int32))
unlock = types.ExternalFunction("autograd_unlock", types.void(types.intp))

# ---- kernels by address


@intrinsic
def entry_of(context, kernel, rows, static):
    """Return what any thread needs to run a kernel on some rows, as three integers.

    They are the address of a function ``entry(arguments, begin, end)``, the address of
    ``arguments``, and the number of rows, or -1 if the arrays in `rows` have different numbers of
    rows. For example, ``entry(arguments, 10, 20)`` computes
    ``kernel(*[x[10:20] for x in rows], *static)``, and returns 0, or the address of an error.

    The arguments stand on the stack of the calling function, so they exist until it returns.
    """
    kinds = (*rows.types, *static.types)
    call = context.resolve_function_type(kernel, kinds, {})
    signature = types.UniTuple(types.int64, 3)(kernel, rows, static)

    def build(context, builder, signature, args):
        _, rows, static = args
        compiled = kernel.dispatcher.overloads[call.args]
        context.active_code_library.add_linking_library(compiled.library)
        _keep_apart(context.active_code_library)
        values = [
            *cgutils.unpack_tuple(builder, rows, len(signature.args[1])),
            *cgutils.unpack_tuple(builder, static, len(signature.args[2])),
        ]
        package = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, values))

        kind = ir.FunctionType(WORD, [WORD, WORD, WORD])
        entry = ir.Function(builder.module, kind, f"{builder.function.name}.entry")
        entry.linkage = "internal"
        body = ir.IRBuilder(entry.append_basic_block())
        arguments, begin, end = entry.args
        packed = body.load(body.inttoptr(arguments, package.type))
        given = list(cgutils.unpack_tuple(body, packed, len(values)))
        for i, kind in enumerate(kinds):
            if isinstance(kind, types.Array):
                bounds = (begin, end) if i < len(signature.args[1]) else None
                given[i] = _uncounted(context, body, kind, given[i], bounds)
        status, _ = context.call_internal_no_propagate(body, compiled.fndesc, call, given)
        body.ret(body.select(status.is_error, body.ptrtoint(status.excinfoptr, WORD), WORD(0)))

        lengths = [
            builder.extract_value(make_array(array)(context, builder, value).shape, 0)
            for array, value in zip(signature.args[1], values, strict=False)
        ]
        n_rows = lengths[0]
        for other in lengths[1:]:
            n_rows = builder.select(builder.icmp_signed("==", n_rows, other), n_rows, WORD(-1))
        addresses = [builder.ptrtoint(x, WORD) for x in (entry, package)]
        return context.make_tuple(builder, signature.return_type, [*addresses, n_rows])

    return signature, build


def _keep_apart(library):
    """Let a library run its own copies of the functions that are linked into it.

    Numba gives such a copy a name that all libraries can see, and if two libraries have the name, a
    call may reach the copy in the other one. That copy was compiled in other surroundings: it may
    join a different multiplication with an addition, and so round differently. Which of them runs
    would depend on what the process compiled, and on what it read from the cache.
    """
    optimize = library._optimize_final_module

    def optimize_own_copies():
        for function in library._final_module.functions:
            if function.linkage == Linkage.linkonce_odr and not function.is_declaration:
                function.linkage = "internal"
        optimize()

    library._optimize_final_module = optimize_own_copies


def _uncounted(context, builder, kind, value, bounds):
    """Build an array without a count of its references, or some rows of it: ``value[begin:end]``.

    For each row that a loop takes out of an array, Numba changes the count of the references to
    that array. If several threads change one count, each waits for the memory of the others, and
    two threads take as long as one. The caller of the kernel keeps the arrays, so that nobody has
    to count. The bounds are not checked.
    """
    array = make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    if bounds is None:
        return array._getvalue()
    begin, end = bounds
    shape = cgutils.unpack_tuple(builder, array.shape, kind.ndim)
    strides = cgutils.unpack_tuple(builder, array.strides, kind.ndim)
    first = cgutils.pointer_add(builder, array.data, builder.mul(begin, strides[0]))
    shape = [builder.sub(end, begin), *shape[1:]]
    return make_view(context, builder, kind, array, kind, first, shape, strides)._getvalue()


@intrinsic
def enter(context, entry, arguments, begin, end):
    """Call a function that `entry_of` has returned, by its address."""

    def build(context, builder, signature, args):
        kind = ir.FunctionType(WORD, [WORD, WORD, WORD])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(types.int64, types.int64, types.int64, types.int64), build


@intrinsic
def reraise(context, error):
    """Raise the error that `enter` has returned the address of; do nothing if that is 0."""

    def build(context, builder, signature, args):
        failed = builder.icmp_unsigned("!=", args[0], WORD(0))
        with cgutils.if_unlikely(builder, failed):
            status = dict.fromkeys(Status._fields)
            status |= dict(
                code=RETCODE_USEREXC, excinfoptr=builder.inttoptr(args[0], excinfo_ptr_t)
            )
            context.call_conv.return_status_propagate(builder, Status(**status))
        return context.get_dummy_value()

    return types.void(types.int64), build


# ---- prefetching


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
