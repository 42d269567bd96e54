"""The kernels compiled for GPUs that are not here: each must fit the fast memory that a program may have there.

Run as a script, `python tests/backends/test_fused_compiles.py 89`, it compiles for that compute capability and prints
each kernel with the bytes that it needs.
"""

import os
import subprocess
import sys

import pytest

# Bytes of shared memory that a program may have, by compute capability (CUDA C++ Programming Guide, technical
# specifications).
CAPABILITIES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}

pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_fit_the_fast_memory(capability):
    sizes = sizes_of(capability, "all")
    assert len(sizes) > 20
    assert {name: size for name, size in sizes.items() if size > CAPABILITIES[capability]} == {}


def test_the_kernels_over_rows_compile():
    # The interpreter takes what the compiler refuses, such as a name of two types.
    assert len(sizes_of(90, "rows")) > 10


def sizes_of(capability, which):
    """Bytes by kernel; compiled in a process of its own, since here the kernels may be the interpreter's."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, __file__, str(capability), which]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    return {name: int(size) for name, size in (line.rsplit(maxsplit=1) for line in process.stdout.splitlines())}


TYPES = {
    "*i32": ("row_labels", "column_labels", "column_ends", "labels", "tiles", "num_uniform", "row_starts", "row_ends",
             "column_starts", "row_order", "row_positives", "order"),
    "*i64": ("tables",),
    "*fp32": ("summaries", "row_maxima", "row_sums", "column_maxima", "column_sums", "row_coefficients",
              "column_shifts", "column_coefficients", "maxima", "sums", "partials", "row_gradients", "positives",
              "similarity_scale", "similarity_bias", "losses", "statistics", "row_shifts", "row_normalizers",
              "inverse_norms", "upstream", "loss_scale", "radials", "row_radials", "column_radials"),
}  # fmt: skip


def compile_all(capability):
    """Print the shared memory of every kernel over pairs, for every kind of rows."""
    from labeldist.backends.fused import tilings

    has_full = CAPABILITIES[capability] >= tilings.FULL_SHARED_MEMORY
    compile_wide(capability, has_full)
    compile_tables(capability)
    compile_narrow(capability)
    compile_small(capability)
    compile_medium(capability)
    compile_rows(capability)


def compile_wide(capability, has_full):
    from labeldist.backends.fused import _kernels_planes, _kernels_wide, tilings

    for width, size in ((768, 2), (192, 2), (64, 4), (768, 4)):
        for is_mirrored, is_self in ((True, True), (False, True), (False, False)):
            constants = {"TWO_PLANES": size == 4, "IS_SELF": is_self, "MIRRORED": is_mirrored, "WIDTH": width}
            constants |= {"product_scale": 1.0}
            for kernel, name in (
                (_kernels_wide.sum_exponentials, "sums"),
                (_kernels_wide.store_pair_weights, "weights"),
            ):
                is_any = not has_full and (name == "weights" or size == 4)
                kind = "any" if is_any else "mirrored" if is_mirrored else "dense"
                tiling = tilings.tiling_for(f"{kind} {name}", size, width)
                block = (tiling.block_rows, tiling.block_columns)
                own = {"rows": described(block[0], tiling.block_d), "columns": described(block[1], tiling.block_d)}
                more = {"ROWS_PER_PROGRAM": 1024}
                if name == "weights":
                    own |= {"high": described(*block), "low": described(*block)}
                    more = {"GROUP": 8} if size == 4 else {"GROUP": 8, "low": None}
                report(kernel, capability, own, constants | more | sides(tiling) | {"BLOCK_D": tiling.block_d}, tiling)
    tiling = tilings.tiling_for(f"{'dense' if has_full else 'any'} products", 4, 768)
    for is_transposed in (False, True):
        block = (
            (tiling.block_columns, tiling.block_rows) if is_transposed else (tiling.block_rows, tiling.block_columns)
        )
        own = {"weights": described(*block), "weights_low": described(*block), "total": "*fp32"}
        own["rows"] = described(tiling.block_columns, tiling.block_d)
        constants = {"TRANSPOSED": is_transposed, "WIDTH": 768, "BLOCK_ROWS": tiling.block_rows}
        blocks = {"BLOCK_D": tiling.block_d, "BLOCK_TERMS": tiling.block_columns}
        report(_kernels_planes.add_products, capability, own, constants | blocks, tiling)


def compile_tables(capability):
    from labeldist.backends.fused import _kernels_pairs, tilings

    for is_two_planes in (False, True):
        tiling = tilings.tiling_for("tables", 2, 768)
        own = {"rows": "*fp16", "columns": "*fp16"}
        constants = {"product_scale": 1.0, "TWO_PLANES": is_two_planes, "IS_SELF": True, "WIDTH": 768}
        blocks = sides(tiling) | {"BLOCK_D": tiling.block_d}
        report(_kernels_pairs.sum_table_gradient, capability, own, constants | blocks, tiling)


def compile_narrow(capability):
    from labeldist.backends.fused import _kernels_pairs, narrow, tilings

    own = {"rows": "*bf16", "columns": "*bf16"}
    for width in (16, 64, 128):
        for is_mixed in (False, True):
            constants = {"IS_MIXED": is_mixed, "IS_FIRST": not is_mixed, "WIDTH": width}
            for kernel, name, more in (
                (_kernels_pairs.sum_mirrored_pairs, "mirrored", {"BY_KIND": True}),
                (_kernels_pairs.sum_dense_pairs, "dense", {"IS_SELF": True}),
                (_kernels_pairs.accumulate_gradient, "gradient", {"MIRRORED": True}),
                (_kernels_pairs.accumulate_gradient, "gradient", {"MIRRORED": False}),
            ):
                tiling = tilings.tiling_for(name, 2, width)
                warps = narrow.num_warps(tiling, capability // 10, is_mixed=is_mixed)
                tiling = tiling._replace(num_warps=warps)
                roles = {"IS_SELF": True, "ROWS_ARE_ANCHORS": True, "COLUMNS_ARE_ANCHORS": True}
                roles = roles if name == "gradient" else {}
                report(kernel, capability, own, constants | more | roles | sides(tiling), tiling)


def compile_small(capability):
    from labeldist.backends.fused import _kernels_small, tilings

    for element, size in (("*bf16", 2), ("*fp32", 4)):
        own = {"rows": element, "columns": element, "gradient": "*bf16", "source": "*bf16"}
        own |= {"row_labels": "*i64", "column_labels": "*i64", "labels": "*i64", "is_valid": "*i1"}
        tiling = tilings.tiling_for("small", size, 768)
        constants = {"IS_SELF": True, "WIDTH": 768, "PRECISION": "bf16x6", "BLOCK_D": tiling.block_d}
        constants |= sides(tiling)
        report(_kernels_small.losses_of_small_batch, capability, own, constants, tiling)
        more = {"ROWS_ARE_ANCHORS": True, "COLUMNS_ARE_ANCHORS": True, "BLOCK_OUT": tiling.block_d}
        report(_kernels_small.gradient_of_small_batch, capability, own, constants | more, tiling)


def compile_medium(capability):
    from labeldist.backends.fused import _kernels_medium, tilings

    tiling = tilings.tiling_for("medium", 2, 768)
    own = {"rows": "*fp16", "columns": "*fp16", "weights": "*fp16"}
    for is_self in (True, False):
        constants = {"IS_SELF": is_self, "WIDTH": 768, "BLOCK_D": tiling.block_d} | sides(tiling)
        report(_kernels_medium.sum_tile_exponentials, capability, own, constants, tiling)
        report(_kernels_medium.store_tile_weights, capability, own, constants | {"BLOCK_UPSTREAM": 1024}, tiling)
    tiling = tilings.tiling_for("medium gradient", 2, 768)
    own = {"weights": "*fp16", "columns": "*fp16", "source": "*bf16", "gradient": "*bf16"}
    blocks = {"BLOCK_ROWS": tiling.block_rows, "BLOCK_D": tiling.block_d, "BLOCK_TERMS": tiling.block_columns}
    for is_transposed in (False, True):
        constants = {"TRANSPOSED": is_transposed, "WIDTH": 768} | blocks
        report(_kernels_medium.gradient_from_weights, capability, own, constants, tiling)


def compile_rows(capability):
    """The kernels that finish losses and gradients, with and without graded targets."""
    from labeldist.backends.fused import _kernels_graded, _kernels_rows, graded, tilings

    tiling = tilings.tiling_for("tables", 2, 768)._replace(num_warps=4, num_stages=3)
    floats = ("class_sums", "ref_sums", "anchor_sums", "pulls", "ref_pulls", "numbers", "partial_maxima")
    floats += ("partial_sums", "shifts", "normalizers", "means", "anchor_gradients")
    ends = dict.fromkeys(("starts", "ends", "ref_starts", "ref_ends"), "*i32")
    own = dict.fromkeys(floats, "*fp32") | ends | {"order": "*i64", "is_valid": "*i1", "gradient": "*bf16"}
    for rows, width in (("*fp32", 128), ("*fp16", 768)):
        types = own | {"unit_rows": rows}
        for is_self in (True, False):
            constants = {"IS_SELF": is_self, "WIDTH": width, "BLOCK": 16, "BLOCK_D": 64}
            roles = {"ROWS_ARE_ANCHORS": True, "COLUMNS_ARE_ANCHORS": is_self, "plane_scale": 1.0}
            for module, finish, scatter in (
                (_kernels_rows, "finish_losses", "scatter_gradient"),
                (_kernels_graded, "finish_graded_losses", "scatter_graded_gradient"),
            ):
                report(getattr(module, finish), capability, types, constants, tiling)
                report(getattr(module, scatter), capability, types, constants | roles, tiling)
    tables = own | dict.fromkeys(("relevance", "weighted"), "*fp32")
    for is_self in (True, False):
        for by_total in (True, False):
            constants = {"IS_SELF": is_self, "BY_TOTAL": by_total, "BLOCK": 128}
            report(_kernels_graded.weigh_targets, capability, tables, constants, tiling)
        for width in (16, 768):
            blocks = {"WIDTH": width, "BLOCK": graded.CLASS_SUMS_PER_STEP, "BLOCK_D": min(width, 64)}
            report(_kernels_graded.pull_anchors, capability, tables, {"IS_SELF": is_self} | blocks, tiling)
            report(_kernels_graded.pull_references, capability, tables, blocks, tiling)


def sides(tiling):
    return {"BLOCK_ROWS": tiling.block_rows, "BLOCK_COLUMNS": tiling.block_columns}


def described(rows, columns):
    """The type of a descriptor of such blocks."""
    return f"tensordesc<fp16[{rows},{columns}]>"


def report(kernel, capability, own_types, constants, tiling):
    """Compile one kernel and print what it needs."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: kind for kind, names in TYPES.items() for name in names} | own_types
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name, kind in signature.items() if kind.startswith("*")},
    )
    options = {"num_warps": tiling.num_warps, "num_stages": tiling.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    print(kernel.__name__, own_types.get("rows"), constants, compiled.metadata.shared)


if __name__ == "__main__":
    (compile_rows if sys.argv[2:] == ["rows"] else compile_all)(int(sys.argv[1]))
