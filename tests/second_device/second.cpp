// A second device for tests, of which the machine has two: "second:0" and "second:1".
//
// PyTorch keeps one device type, PrivateUse1, for backends that live outside it. This one holds its tensors in the
// host's memory and computes on the CPU, but tells its tensors from those of the CPU as a GPU does: an operation on
// tensors of two devices is an error, autocast casts what it casts on a GPU, and whatever the host has to wait for is
// counted. What a GPU does beyond that is not here: nothing runs asynchronously, and the generator is the CPU's, unless
// the devices are told to have their own.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <array>
#include <atomic>
#include <string>
#include <unordered_set>

namespace {

constexpr auto KIND = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex COUNT = 2;
thread_local c10::DeviceIndex current = 0;

c10::DeviceIndex index_of(c10::Device device) {
  TORCH_CHECK(device.index() < COUNT, "invalid device ordinal: ", device);
  return device.has_index() ? device.index() : current;
}

// --- what the host waits for ---

std::atomic<int64_t> waits{0};
std::atomic<bool> forbidden{false};
thread_local bool inside_fallback = false;  // its own copies are not the program's

void host_waits(const std::string& what) {
  if (inside_fallback) return;
  ++waits;
  TORCH_CHECK(!forbidden, "the host waits for the device: ", what);
}

// --- memory: the host's, known by the device that it was allocated for ---

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto data = c10::GetCPUAllocator()->allocate(bytes);
    auto release = data.get_deleter();
    auto* start = data.release_context();
    return {start, start, release, c10::Device(KIND, current)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { memcpy(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

struct OnDevice {  // the current device while it lives
  explicit OnDevice(c10::DeviceIndex index) : before(current) { current = index; }
  ~OnDevice() { current = before; }
  c10::DeviceIndex before;
};

const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  OnDevice on(index_of(device.value_or(KIND)));
  return at::detail::empty_generic(sizes, &memory, KEYS, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  OnDevice on(index_of(device.value_or(KIND)));
  return at::detail::empty_strided_generic(sizes, strides, &memory, KEYS, c10::dtype_or_default(dtype));
}

void grow(const c10::Storage& storage, size_t bytes) {
  OnDevice on(storage.device().index());
  auto fresh = memory.allocate(bytes);
  if (storage.nbytes()) memcpy(fresh.get(), storage.data(), std::min(bytes, storage.nbytes()));
  auto* impl = storage.unsafeGetStorageImpl();
  impl->set_data_ptr(std::move(fresh));
  impl->set_nbytes(bytes);
}

const at::Tensor& resize_(const at::Tensor& self, at::IntArrayRef sizes, std::optional<at::MemoryFormat>) {
  const size_t bytes = (c10::multiply_integers(sizes) + self.storage_offset()) * self.element_size();
  if (bytes > self.storage().nbytes()) grow(self.storage(), bytes);
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return self;
}

// --- views: other sizes over the same memory ---

at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, sizes, strides, offset);
}
at::Tensor view(const at::Tensor& self, at::IntArrayRef sizes) { return at::native::view(self, sizes); }
at::Tensor reshape_alias(const at::Tensor& self, at::IntArrayRef sizes, at::IntArrayRef strides) {
  return at::native::_reshape_alias(self, sizes, strides);
}
at::Tensor unfold(const at::Tensor& self, int64_t dim, int64_t size, int64_t step) {
  return at::native::unfold(self, dim, size, step);
}
at::Tensor& set_storage(at::Tensor& self, at::Storage storage, int64_t offset, at::IntArrayRef sizes, at::IntArrayRef strides) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_storage_offset(offset);
  impl->set_sizes_and_strides(sizes, strides);
  return self;
}
at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

// --- copies: the only way from one device to another ---

at::Tensor on_host(const at::Tensor& tensor) {  // the same memory
  if (tensor.device().is_cpu()) return tensor;
  auto* start = static_cast<char*>(tensor.unsafeGetTensorImpl()->mutable_data());
  return at::from_blob(start, tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  at::AutoDispatchBelowAutograd without_graph;
  if (to.device().is_cpu() && !non_blocking) host_waits("a copy to it");
  on_host(to).copy_(on_host(self));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}

at::Scalar local_scalar(const at::Tensor& self) {
  host_waits("a number of it");
  return on_host(self).item();
}

// --- random numbers: the CPU's, so that results compare; or each device's own, as a GPU's ---

std::atomic<bool> own_generators{false};

at::Generator generator(c10::DeviceIndex index) {
  static std::array<at::Generator, COUNT> own{at::detail::createCPUGenerator(), at::detail::createCPUGenerator()};
  return own_generators ? own[index] : at::detail::getDefaultCPUGenerator();
}

struct Drawing {  // while it lives the CPU's generator stands where the device's does
  explicit Drawing(c10::DeviceIndex index) : own(generator(index)) { exchange(); }
  ~Drawing() { exchange(); }
  void exchange() {
    auto cpu = at::detail::getDefaultCPUGenerator();
    const auto before = cpu.get_state();
    cpu.set_state(own.get_state());
    own.set_state(before);
  }
  at::Generator own;
};

// --- every other operation: on the CPU, for tensors of one device ---

// Those whose result's size, or whose answer, only the device knows; an index with a mask asks for nonzero.
const std::unordered_set<std::string> KNOWN_THERE = {
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::equal"};
// Those that take numbers of places from the host as well.
const std::unordered_set<std::string> PLACES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"};

c10::DeviceIndex look_at_arguments(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const auto& name = op.schema().name();
  std::optional<at::Tensor> first;
  const auto look = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    if (tensor.device().is_cpu() && (tensor.dim() == 0 || PLACES.count(name))) return;
    if (!first) first = tensor;
    TORCH_CHECK(tensor.device() == first->device(), "Expected all tensors to be on the same device, but found at least two devices, ",
                first->device(), " and ", tensor.device(), "! (", name, ")");
  };
  for (const auto& argument : torch::jit::last(stack, op.schema().arguments().size())) {
    if (argument.isTensor()) look(argument.toTensor());
    if (argument.isTensorList()) for (const auto& tensor : argument.toTensorVector()) look(tensor);
    if (argument.isOptionalTensorList())
      for (const std::optional<at::Tensor>& tensor : argument.toOptionalTensorList()) if (tensor) look(*tensor);
  }
  if (KNOWN_THERE.count(name)) host_waits(name);
  return index_of(first && !first->device().is_cpu() ? first->device() : KIND);
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto index = look_at_arguments(op, *stack);
  std::optional<Drawing> drawing;
  if (own_generators && op.hasTag(at::Tag::nondeterministic_seeded)) drawing.emplace(index);
  struct Inside {
    bool before = inside_fallback;
    Inside() { inside_fallback = true; }
    ~Inside() { inside_fallback = before; }
  } inside;
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

// --- what PyTorch asks of a device ---

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return COUNT; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return std::exchange(current, index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return index < 0 ? current : std::exchange(current, index);
  }
  at::Device getDeviceFromPtr(void*) const override { return {KIND, current}; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override { grow(storage, bytes); }
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  c10::Device getDevice() const override { return {KIND, current}; }
  c10::Device exchangeDevice(c10::Device device) const override { return {KIND, std::exchange(current, index_of(device))}; }
  void setDevice(c10::Device device) const override { current = index_of(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current = index_of(device); }
  c10::DeviceIndex deviceCount() const noexcept override { return COUNT; }
  // One stream for each device, on which all is done as soon as it is asked for.
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return c10::Stream(c10::Stream::DEFAULT, stream.device()); }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override { *event = &waits; }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};

}  // namespace

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("resize_", &resize_);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("unfold", &unfold);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

// Autocast: PyTorch's own lists of what a GPU computes in lower precision, in float32, or in the widest type given.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FLOAT32_TYPE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FLOAT32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FLOAT32_TYPE)
  AT_FORALL_PROMOTE(WIDEST)
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("register", [] { at::RegisterPrivateUse1HooksInterface(new Hooks()); });
  m.def("count", [] { return static_cast<int>(COUNT); });
  m.def("current", [] { return static_cast<int>(current); });
  m.def("set_current", [](int index) { current = static_cast<c10::DeviceIndex>(index); });
  m.def("waits", [] { return waits.load(); });
  m.def("forbid", [](bool value) { forbidden = value; });
  m.def("own_generators", [](bool value) { own_generators = value; });
  m.def("get_rng_state", [](int index) { return generator(index).get_state(); });
  m.def("set_rng_state", [](const at::Tensor& state, int index) { generator(index).set_state(state); });
  m.def("manual_seed", [](uint64_t seed, int index) { if (own_generators) generator(index).set_current_seed(seed); });
}
