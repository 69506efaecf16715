// The kernels as PyTorch operators `meshwright_cuda::*`, through the LibTorch stable ABI: nothing here is bound to one
// release of torch, and the library loads where torch has no CUDA. Outputs are allocated by the caller; `stream` is the
// handle of a CUDA stream as a number. Shapes are promised by the Python side and checked here only as far as memory
// safety needs.
#include <cuda_runtime.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "../device/limits.h"
#include "../index/index.h"
#include "../permute/permute.h"
#include "../regroup/regroup.h"
#include "../route/route.h"
#include "../swiglu/swiglu.h"
#include "../swiglu_fp8/swiglu_fp8.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kVectorBytes = 16;

void check(cudaError_t status, const char* what) {
    STD_TORCH_CHECK(status == cudaSuccess, what, ": ", cudaGetErrorString(status));
}

void check_count(int64_t count, int64_t most, const char* what) {
    STD_TORCH_CHECK(count >= 1 && count <= most, what, " are ", count, ", expected 1 to ", most);
}

cudaStream_t stream_of(int64_t handle) { return reinterpret_cast<cudaStream_t>(static_cast<intptr_t>(handle)); }

template <typename Number>
struct Format;
template <>
struct Format<float> {
    static constexpr ScalarType value = ScalarType::Float;
};
template <>
struct Format<int32_t> {
    static constexpr ScalarType value = ScalarType::Int;
};

// Pointer to a contiguous CUDA tensor of `count` numbers.
template <typename Number>
Number* numbers(const Tensor& tensor, int64_t count, const char* name) {
    STD_TORCH_CHECK(tensor.is_cuda(), name, " is not on a CUDA device");
    STD_TORCH_CHECK(tensor.is_contiguous(), name, " is not contiguous");
    STD_TORCH_CHECK(tensor.scalar_type() == Format<Number>::value, name, " has another number format than expected");
    STD_TORCH_CHECK(tensor.numel() == count, name, " has ", tensor.numel(), " numbers, expected ", count);
    return static_cast<Number*>(tensor.data_ptr());
}

template <typename Number>
Number* numbers(const OptionalTensor& tensor, int64_t count, const char* name) {
    return tensor.has_value() ? numbers<Number>(*tensor, count, name) : nullptr;
}

void check_aligned(const Tensor& tensor, const char* name) {
    const bool aligned = reinterpret_cast<uintptr_t>(tensor.data_ptr()) % kVectorBytes == 0;
    STD_TORCH_CHECK(aligned, name, " does not start at a multiple of 16 bytes");
}

// Pointer to contiguous rows whose width is a multiple of 16 bytes.
uint4* rows_of(const Tensor& tensor, int64_t num_rows, int64_t row_bytes, const char* name) {
    STD_TORCH_CHECK(tensor.is_cuda(), name, " is not on a CUDA device");
    STD_TORCH_CHECK(tensor.is_contiguous(), name, " is not contiguous");
    const int64_t bytes = tensor.numel() * static_cast<int64_t>(tensor.element_size());
    STD_TORCH_CHECK(row_bytes % kVectorBytes == 0, name, " has rows of ", row_bytes, " bytes, no multiple of 16");
    STD_TORCH_CHECK(bytes == num_rows * row_bytes, name, " has ", bytes, " bytes, expected ", num_rows * row_bytes);
    check_aligned(tensor, name);
    return static_cast<uint4*>(tensor.data_ptr());
}

int64_t row_bytes_of(const Tensor& tensor) { return tensor.size(1) * static_cast<int64_t>(tensor.element_size()); }

bool is_bfloat16(const Tensor& tensor) {
    const ScalarType type = tensor.scalar_type();
    STD_TORCH_CHECK(type == ScalarType::BFloat16 || type == ScalarType::Float, "expected bfloat16 or float32");
    return type == ScalarType::BFloat16;
}

constexpr int64_t kMostTokens = int64_t{1} << 31;

void route_forward(
    const Tensor& logits, const OptionalTensor& bias, const Tensor& experts, const Tensor& weights,
    const Tensor& counts, const OptionalTensor& sums, const Tensor& partial_counts, const OptionalTensor& partial_sums,
    int64_t num_groups, int64_t groups_per_token, bool sigmoid, bool normalize, double scale, int64_t stream) {
    const int64_t num_tokens = logits.size(0), num_experts = logits.size(1), top_k = experts.size(1);
    const int64_t num_blocks = partial_counts.size(0);
    check_count(num_experts, meshwright::kMostExperts, "route: experts");
    check_count(top_k, meshwright::kMostChosen, "route: experts a token");
    STD_TORCH_CHECK(top_k <= num_experts, "route: more experts a token than there are");
    check_count(num_groups, meshwright::kMostGroups, "route: groups");
    STD_TORCH_CHECK(num_experts % num_groups == 0, "route: groups are not equally large");
    STD_TORCH_CHECK(num_blocks >= 1, "route needs a block");
    STD_TORCH_CHECK(num_tokens <= kMostTokens, "route takes 2**31 tokens");
    STD_TORCH_CHECK(sums.has_value() == partial_sums.has_value(), "sums and partial_sums come together");
    const meshwright::RouteForward task{
        {static_cast<int>(num_experts), static_cast<int>(top_k), static_cast<int>(num_groups),
         static_cast<int>(groups_per_token), sigmoid, normalize, static_cast<float>(scale)},
        num_tokens,
        static_cast<int>(num_blocks),
        numbers<float>(logits, num_tokens * num_experts, "logits"),
        numbers<float>(bias, num_experts, "bias"),
        numbers<int32_t>(experts, num_tokens * top_k, "experts"),
        numbers<float>(weights, num_tokens * top_k, "weights"),
        numbers<int32_t>(counts, num_experts, "counts"),
        numbers<float>(sums, num_experts, "sums"),
        numbers<int32_t>(partial_counts, num_blocks * num_experts, "partial_counts"),
        numbers<float>(partial_sums, num_blocks * num_experts, "partial_sums"),
    };
    check_aligned(logits, "logits");
    check(meshwright::route_forward(task, stream_of(stream)), "route_forward");
}

void route_backward(
    const Tensor& logits, const Tensor& experts, const Tensor& weights, const Tensor& grad_weights,
    const OptionalTensor& grad_sums, const Tensor& grad_logits, bool sigmoid, bool normalize, double scale, int64_t num_blocks, int64_t stream) {
    const int64_t num_tokens = logits.size(0), num_experts = logits.size(1), top_k = experts.size(1);
    check_count(num_experts, meshwright::kMostExperts, "route: experts");
    check_count(top_k, meshwright::kMostChosen, "route: experts a token");
    STD_TORCH_CHECK(top_k <= num_experts, "route: more experts a token than there are");
    STD_TORCH_CHECK(num_blocks >= 1, "route needs a block");
    const meshwright::RouteBackward task{
        {static_cast<int>(num_experts), static_cast<int>(top_k), 1, 1, sigmoid, normalize, static_cast<float>(scale)},
        num_tokens,
        static_cast<int>(num_blocks),
        numbers<float>(logits, num_tokens * num_experts, "logits"),
        numbers<int32_t>(experts, num_tokens * top_k, "experts"),
        numbers<float>(weights, num_tokens * top_k, "weights"),
        numbers<float>(grad_weights, num_tokens * top_k, "grad_weights"),
        numbers<float>(grad_sums, num_experts, "grad_sums"),
        numbers<float>(grad_logits, num_tokens * num_experts, "grad_logits"),
    };
    check_aligned(logits, "logits");
    check_aligned(grad_logits, "grad_logits");
    check(meshwright::route_backward(task, stream_of(stream)), "route_backward");
}

void index_rows(
    const Tensor& experts, const Tensor& slots, const Tensor& places, const Tensor& counts, const Tensor& offsets,
    const Tensor& histograms, int64_t first_expert, int64_t tile, const OptionalTensor& part_ends, int64_t chunk,
    int64_t stream) {
    const int64_t num_slots = experts.numel(), num_experts = counts.numel(), num_blocks = histograms.size(0);
    check_count(num_experts, meshwright::kMostExperts, "index: experts");
    STD_TORCH_CHECK(chunk >= 1024 && chunk % 1024 == 0, "chunks are multiples of 1024 slots");
    STD_TORCH_CHECK(num_blocks >= 1 && num_blocks * chunk >= num_slots, "chunks do not cover all slots");
    STD_TORCH_CHECK(tile >= 1, "a tile has a row");
    const int64_t padding = (num_slots < num_experts ? num_slots : num_experts) * (tile - 1);
    const int64_t num_parts = part_ends.has_value() ? part_ends.value().numel() : 0;
    if (part_ends.has_value()) {
        STD_TORCH_CHECK(num_parts > 0 && tile == 1 && num_experts % num_parts == 0, "parts have as many experts each");
    } else {
        STD_TORCH_CHECK(slots.numel() >= num_slots + padding, "slots is smaller than the worst case");
    }
    const meshwright::IndexRows task{
        num_slots,
        slots.numel(),
        static_cast<int>(num_experts),
        static_cast<int>(first_expert),
        static_cast<int>(tile),
        static_cast<int>(num_parts),
        numbers<int32_t>(part_ends, num_parts, "part_ends"),
        static_cast<int>(chunk),
        static_cast<int>(num_blocks),
        numbers<int32_t>(experts, num_slots, "experts"),
        numbers<int32_t>(slots, slots.numel(), "slots"),
        numbers<int32_t>(places, num_slots, "places"),
        numbers<int32_t>(counts, num_experts, "counts"),
        numbers<int32_t>(offsets, num_experts, "offsets"),
        numbers<int32_t>(histograms, num_blocks * num_experts, "histograms"),
    };
    check(meshwright::index_rows(task, stream_of(stream)), "index_rows");
}

void regroup_rows(
    const Tensor& arriving, const Tensor& slots, const Tensor& places, const Tensor& counts, const Tensor& offsets,
    int64_t tile, bool in_parts, int64_t num_blocks, int64_t stream) {
    const int64_t num_sources = arriving.size(0), num_experts = arriving.size(1), num_rows = places.numel();
    check_count(arriving.numel(), meshwright::kMostSegments, "regroup: pairs of source and expert");
    STD_TORCH_CHECK(tile >= 1 && num_blocks >= 1, "a tile has a row, and rows have a block");
    const int64_t padding = (num_rows < num_experts ? num_rows : num_experts) * (tile - 1);
    STD_TORCH_CHECK(slots.numel() >= num_rows + padding, "slots is smaller than the worst case");
    STD_TORCH_CHECK(!in_parts || num_rows % num_sources == 0, "rows are no equal parts");
    const meshwright::RegroupRows task{
        num_rows,
        slots.numel(),
        static_cast<int>(num_sources),
        static_cast<int>(num_experts),
        static_cast<int>(tile),
        in_parts,
        static_cast<int>(num_blocks),
        numbers<int32_t>(arriving, num_sources * num_experts, "arriving"),
        numbers<int32_t>(slots, slots.numel(), "slots"),
        numbers<int32_t>(places, num_rows, "places"),
        numbers<int32_t>(counts, num_experts, "counts"),
        numbers<int32_t>(offsets, num_experts, "offsets"),
    };
    check(meshwright::regroup_rows(task, stream_of(stream)), "regroup_rows");
}

meshwright::RowPlaces row_places(const Tensor& places, const Tensor& counts, const Tensor& offsets, bool padded) {
    const int64_t num_experts = counts.numel();
    return {
        places.size(0),
        static_cast<int>(places.size(1)),
        padded ? static_cast<int>(num_experts) : 0,
        numbers<int32_t>(places, places.numel(), "places"),
        numbers<int32_t>(counts, num_experts, "counts"),
        numbers<int32_t>(offsets, num_experts, "offsets"),
    };
}

void permute(
    const Tensor& tokens, const OptionalTensor& weights, const Tensor& places, const Tensor& counts,
    const Tensor& offsets, const Tensor& rows, const OptionalTensor& gates, bool padded, int64_t stream) {
    const int64_t row_bytes = row_bytes_of(tokens);
    STD_TORCH_CHECK(weights.has_value() == gates.has_value(), "weights and gates come together");
    const meshwright::Permute task{
        row_places(places, counts, offsets, padded),
        static_cast<int>(row_bytes / kVectorBytes),
        rows_of(tokens, places.size(0), row_bytes, "tokens"),
        numbers<float>(weights, places.numel(), "weights"),
        rows_of(rows, rows.size(0), row_bytes, "rows"),
        numbers<float>(gates, rows.size(0), "gates"),
    };
    check(meshwright::permute(task, stream_of(stream)), "permute");
}

void gather_sum(
    const Tensor& rows, const OptionalTensor& weights, const OptionalTensor& row_gates, const Tensor& places,
    const Tensor& counts, const Tensor& offsets, const Tensor& tokens, const OptionalTensor& slot_gates,
    int64_t stream) {
    const int64_t row_bytes = row_bytes_of(rows);
    STD_TORCH_CHECK(row_gates.has_value() == slot_gates.has_value(), "row_gates and slot_gates come together");
    STD_TORCH_CHECK(rows.scalar_type() == tokens.scalar_type(), "rows and tokens have one number format");
    const meshwright::GatherSum task{
        row_places(places, counts, offsets, false),
        static_cast<int>(row_bytes / kVectorBytes),
        rows_of(rows, rows.size(0), row_bytes, "rows"),
        numbers<float>(weights, places.numel(), "weights"),
        numbers<float>(row_gates, rows.size(0), "row_gates"),
        rows_of(tokens, places.size(0), row_bytes, "tokens"),
        numbers<float>(slot_gates, places.numel(), "slot_gates"),
    };
    check(meshwright::gather_sum(task, is_bfloat16(rows), stream_of(stream)), "gather_sum");
}

void unpermute_backward(
    const Tensor& grad_tokens, const OptionalTensor& rows, const OptionalTensor& weights, const Tensor& places,
    const Tensor& counts, const Tensor& offsets, const Tensor& grad_rows, const OptionalTensor& grad_weights,
    bool padded, int64_t stream) {
    const int64_t row_bytes = row_bytes_of(grad_tokens), num_rows = grad_rows.size(0);
    const bool weighted = weights.has_value();
    STD_TORCH_CHECK(
        rows.has_value() == weighted && grad_weights.has_value() == weighted,
        "rows, weights and their gradient come together");
    const meshwright::UnpermuteBackward task{
        row_places(places, counts, offsets, padded),
        static_cast<int>(row_bytes / kVectorBytes),
        rows_of(grad_tokens, places.size(0), row_bytes, "grad_tokens"),
        weighted ? rows_of(*rows, num_rows, row_bytes, "rows") : nullptr,
        numbers<float>(weights, places.numel(), "weights"),
        rows_of(grad_rows, num_rows, row_bytes, "grad_rows"),
        numbers<float>(grad_weights, places.numel(), "grad_weights"),
    };
    check(meshwright::unpermute_backward(task, is_bfloat16(grad_tokens), stream_of(stream)), "unpermute_backward");
}

// Rows that may be part of wider ones: strides in units of 16 bytes.
struct StridedRows {
    const uint4* data;
    int64_t stride;
};

StridedRows strided_rows(const Tensor& tensor, int64_t num_rows, int64_t width, const char* name) {
    STD_TORCH_CHECK(tensor.is_cuda(), name, " is not on a CUDA device");
    STD_TORCH_CHECK(tensor.size(0) == num_rows && tensor.size(1) == width, name, " has another shape than expected");
    STD_TORCH_CHECK(width <= 1 || tensor.stride(1) == 1, name, " has columns that do not lie side by side");
    const int64_t number_bytes = static_cast<int64_t>(tensor.element_size());
    const int64_t stride_bytes = tensor.stride(0) * number_bytes;
    STD_TORCH_CHECK(width * number_bytes % kVectorBytes == 0, name, " has rows that are no multiple of 16 bytes");
    STD_TORCH_CHECK(stride_bytes % kVectorBytes == 0, name, " has rows that are no multiple of 16 bytes apart");
    check_aligned(tensor, name);
    return {static_cast<const uint4*>(tensor.data_ptr()), stride_bytes / kVectorBytes};
}

// The end of the last group is the last of `offsets`.
meshwright::LiveRows live_rows(const OptionalTensor& slots, const OptionalTensor& offsets, int64_t num_rows) {
    STD_TORCH_CHECK(slots.has_value() == offsets.has_value(), "slots and offsets come together");
    if (!slots.has_value()) return {nullptr, nullptr};
    const int64_t num_experts = offsets->numel();
    STD_TORCH_CHECK(num_experts >= 1, "offsets is empty");
    return {
        numbers<int32_t>(*slots, num_rows, "slots"),
        numbers<int32_t>(*offsets, num_experts, "offsets") + num_experts - 1,
    };
}

void swiglu(
    const Tensor& gate, const Tensor& up, const OptionalTensor& weights, const OptionalTensor& slots,
    const OptionalTensor& offsets, const Tensor& out, int64_t stream) {
    const int64_t num_rows = gate.size(0), width = gate.size(1);
    STD_TORCH_CHECK(
        gate.scalar_type() == up.scalar_type() && gate.scalar_type() == out.scalar_type(),
        "one number format is expected");
    const StridedRows gates = strided_rows(gate, num_rows, width, "gate");
    const StridedRows ups = strided_rows(up, num_rows, width, "up");
    const int64_t row_bytes = width * static_cast<int64_t>(out.element_size());
    const meshwright::Swiglu task{
        live_rows(slots, offsets, num_rows),
        num_rows,
        static_cast<int>(row_bytes / kVectorBytes),
        gates.stride,
        ups.stride,
        gates.data,
        ups.data,
        numbers<float>(weights, num_rows, "weights"),
        rows_of(out, num_rows, row_bytes, "out"),
    };
    check(meshwright::swiglu(task, is_bfloat16(gate), stream_of(stream)), "swiglu");
}

void swiglu_backward(
    const Tensor& gate, const Tensor& up, const OptionalTensor& weights, const OptionalTensor& slots,
    const OptionalTensor& offsets, const Tensor& grad, const Tensor& grad_joint, const OptionalTensor& grad_weights,
    int64_t stream) {
    const int64_t num_rows = gate.size(0), width = gate.size(1);
    STD_TORCH_CHECK(
        gate.scalar_type() == up.scalar_type() && gate.scalar_type() == grad.scalar_type() &&
            gate.scalar_type() == grad_joint.scalar_type(),
        "one number format is expected");
    STD_TORCH_CHECK(weights.has_value() == grad_weights.has_value(), "weights and their gradient come together");
    const StridedRows gates = strided_rows(gate, num_rows, width, "gate");
    const StridedRows ups = strided_rows(up, num_rows, width, "up");
    const int64_t row_bytes = width * static_cast<int64_t>(grad.element_size());
    const meshwright::SwigluBackward task{
        live_rows(slots, offsets, num_rows),
        num_rows,
        static_cast<int>(row_bytes / kVectorBytes),
        gates.stride,
        ups.stride,
        gates.data,
        ups.data,
        numbers<float>(weights, num_rows, "weights"),
        rows_of(grad, num_rows, row_bytes, "grad"),
        rows_of(grad_joint, num_rows, 2 * row_bytes, "grad_joint"),
        numbers<float>(grad_weights, num_rows, "grad_weights"),
    };
    check(meshwright::swiglu_backward(task, is_bfloat16(gate), stream_of(stream)), "swiglu_backward");
}

uint8_t* fp8_numbers(const Tensor& tensor, int64_t count, const char* name) {
    STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float8_e4m3fn, name, " is not e4m3");
    return reinterpret_cast<uint8_t*>(rows_of(tensor, 1, count, name));
}

void swiglu_fp8(
    const Tensor& gate, const Tensor& up, const OptionalTensor& weights, const OptionalTensor& slots,
    const OptionalTensor& offsets, const Tensor& rows, const Tensor& row_scales, const Tensor& columns,
    const Tensor& column_scales, int64_t stream) {
    const int64_t num_rows = gate.size(0), width = gate.size(1);
    STD_TORCH_CHECK(num_rows % 128 == 0 && width % 128 == 0, "rows and columns come in tiles of 128");
    STD_TORCH_CHECK(num_rows / 128 <= 65535, "too many rows");
    STD_TORCH_CHECK(
        gate.scalar_type() == ScalarType::BFloat16 && up.scalar_type() == ScalarType::BFloat16, "expected bfloat16");
    const StridedRows gates = strided_rows(gate, num_rows, width, "gate");
    const StridedRows ups = strided_rows(up, num_rows, width, "up");
    const meshwright::SwigluFp8 task{
        live_rows(slots, offsets, num_rows),
        num_rows,
        static_cast<int>(width),
        gates.stride,
        ups.stride,
        gates.data,
        ups.data,
        numbers<float>(weights, num_rows, "weights"),
        fp8_numbers(rows, num_rows * width, "rows"),
        numbers<float>(row_scales, num_rows * width / 128, "row_scales"),
        fp8_numbers(columns, num_rows * width, "columns"),
        numbers<float>(column_scales, num_rows * width / 128, "column_scales"),
    };
    check(meshwright::swiglu_fp8(task, stream_of(stream)), "swiglu_fp8");
}

}  // namespace

STABLE_TORCH_LIBRARY(meshwright_cuda, library) {
    library.def(
        "route_forward(Tensor logits, Tensor? bias, Tensor(a!) experts, Tensor(b!) weights, Tensor(c!) counts, "
        "Tensor(d!)? sums, Tensor(e!) partial_counts, Tensor(f!)? partial_sums, int num_groups, int groups_per_token, "
        "bool sigmoid, bool normalize, float scale, int stream) -> ()");
    library.def(
        "route_backward(Tensor logits, Tensor experts, Tensor weights, Tensor grad_weights, Tensor? grad_sums, "
        "Tensor(a!) grad_logits, bool sigmoid, bool normalize, float scale, int num_blocks, int stream) -> ()");
    library.def(
        "index_rows(Tensor experts, Tensor(a!) slots, Tensor(b!) places, Tensor(c!) counts, Tensor(d!) offsets, "
        "Tensor(e!) histograms, int first_expert, int tile, Tensor? part_ends, int chunk, int stream) -> ()");
    library.def(
        "regroup_rows(Tensor arriving, Tensor(a!) slots, Tensor(b!) places, Tensor(c!) counts, Tensor(d!) offsets, "
        "int tile, bool in_parts, int num_blocks, int stream) -> ()");
    library.def(
        "permute(Tensor tokens, Tensor? weights, Tensor places, Tensor counts, Tensor offsets, Tensor(a!) rows, "
        "Tensor(b!)? gates, bool padded, int stream) -> ()");
    library.def(
        "gather_sum(Tensor rows, Tensor? weights, Tensor? row_gates, Tensor places, Tensor counts, Tensor offsets, "
        "Tensor(a!) tokens, Tensor(b!)? slot_gates, int stream) -> ()");
    library.def(
        "unpermute_backward(Tensor grad_tokens, Tensor? rows, Tensor? weights, Tensor places, Tensor counts, "
        "Tensor offsets, Tensor(a!) grad_rows, Tensor(b!)? grad_weights, bool padded, int stream) -> ()");
    library.def(
        "swiglu(Tensor gate, Tensor up, Tensor? weights, Tensor? slots, Tensor? offsets, Tensor(a!) out, "
        "int stream) -> ()");
    library.def(
        "swiglu_backward(Tensor gate, Tensor up, Tensor? weights, Tensor? slots, Tensor? offsets, Tensor grad, "
        "Tensor(a!) grad_joint, Tensor(b!)? grad_weights, int stream) -> ()");
    library.def(
        "swiglu_fp8(Tensor gate, Tensor up, Tensor? weights, Tensor? slots, Tensor? offsets, Tensor(a!) rows, "
        "Tensor(b!) row_scales, Tensor(c!) columns, Tensor(d!) column_scales, int stream) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(meshwright_cuda, CUDA, library) {
    library.impl("route_forward", TORCH_BOX(&route_forward));
    library.impl("route_backward", TORCH_BOX(&route_backward));
    library.impl("index_rows", TORCH_BOX(&index_rows));
    library.impl("regroup_rows", TORCH_BOX(&regroup_rows));
    library.impl("permute", TORCH_BOX(&permute));
    library.impl("gather_sum", TORCH_BOX(&gather_sum));
    library.impl("unpermute_backward", TORCH_BOX(&unpermute_backward));
    library.impl("swiglu", TORCH_BOX(&swiglu));
    library.impl("swiglu_backward", TORCH_BOX(&swiglu_backward));
    library.impl("swiglu_fp8", TORCH_BOX(&swiglu_fp8));
}
