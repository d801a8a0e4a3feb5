// A stand-in for an Ascend NPU: torch's PrivateUse1 on host memory, for tests of what runs where.
//
// Every operator runs the CPU's kernel over the device's own memory. Of float16 and bfloat16 it takes float32 copies and
// rounds what comes out, as a matrix unit does. Refused: float64 and complex numbers, and tensors of two devices. What an
// operator writes without its schema saying so (BatchNorm's running statistics) reaches the device in float32 alone.
// Two devices, so that npu:1 can be told from npu:0. No random numbers, streams or graphs.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/TypeProperties.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

using at::IntArrayRef;
using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::IValue;
using c10::ScalarType;
using c10::Stream;

constexpr auto NPU = c10::DeviceType::PrivateUse1;
constexpr DeviceIndex DEVICES = 2;
thread_local DeviceIndex current = 0;

// ---- memory and the current device ----

struct HostMemory final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    at::DataPtr memory = c10::GetCPUAllocator()->allocate(bytes);
    memory.unsafe_set_device(Device(NPU, current));
    return memory;
  }
  c10::DeleterFnPtr raw_deleter() const override { return c10::GetCPUAllocator()->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};
HostMemory memory;
REGISTER_ALLOCATOR(NPU, &memory);

// All has happened when a call returns, so that there is one stream and nothing to wait for.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return NPU; }
  Device exchangeDevice(Device to) const override {
    Device before = getDevice();
    setDevice(to);
    return before;
  }
  Device getDevice() const override { return Device(NPU, current); }
  void setDevice(Device to) const override {
    TORCH_CHECK(to.index() < DEVICES, "npu:", static_cast<int>(to.index()), ": there are ", static_cast<int>(DEVICES));
    uncheckedSetDevice(to);
  }
  void uncheckedSetDevice(Device to) const noexcept override { current = to.has_index() ? to.index() : current; }
  DeviceIndex deviceCount() const noexcept override { return DEVICES; }
  Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream getDefaultStream(Device device) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return DEVICES; }
  DeviceIndex getCurrentDevice() const override { return current; }
  Device getDeviceFromPtr(void*) const override { return Device(NPU, current); }
};
[[maybe_unused]] const bool hooked = (at::RegisterPrivateUse1HooksInterface(new Hooks), true);

// ---- between the device and the host ----

bool is_half(ScalarType type) { return type == at::kHalf || type == at::kBFloat16; }

void check_dtype(ScalarType type) {
  TORCH_CHECK(type != at::kDouble && !c10::isComplexType(type), "npu: no ", type, " on this device");
}

// The same memory, as the CPU sees it.
Tensor memory_of(const Tensor& t) {
  check_dtype(t.scalar_type());
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), t.options().device(at::kCPU));
}

// What the CPU's kernel takes for `t`: the same memory where that will do.
Tensor operand_of(const Tensor& t) {
  if (is_half(t.scalar_type())) return memory_of(t).to(at::kFloat);
  return memory_of(t);
}

// For what a kernel only writes: it gives it a shape.
Tensor space_for(const Tensor& t) {
  check_dtype(t.scalar_type());
  return at::empty({0}, at::TensorOptions().dtype(is_half(t.scalar_type()) ? at::kFloat : t.scalar_type()));
}

Tensor on_device(const Tensor& host, ScalarType type, Device device) {
  Tensor t = at::empty_strided(host.sizes(), host.strides(), host.options().device(device).dtype(type));
  memory_of(t).copy_(host);
  return t;
}

// ---- operators ----

// One call of an operator: what was taken from the device, and what goes back.
struct Call {
  struct Loan {
    Tensor lent, host;
  };
  const c10::FunctionSchema& schema;
  std::optional<Device> device;
  std::vector<Loan> loans;
  at::native::ResultTypeState types;
  std::optional<ScalarType> asked;  // a half dtype given as an argument

  Tensor lend(const Tensor& t, bool among_others, bool out = false) {
    if (!t.defined()) return t;
    types = at::native::update_result_type_state(t, types);
    if (t.device().type() != NPU) {
      TORCH_CHECK(t.dim() == 0 && !among_others, "npu: ", schema.name(), " takes tensors of one device; found one on ",
                  t.device(), " of shape ", t.sizes());
      return t;  // a number, as torch allows it on every device
    }
    TORCH_CHECK(!device || *device == t.device(), "npu: ", schema.name(), " takes tensors of one device; found ",
                *device, " and ", t.device());
    device = t.device();
    for (const Loan& one : loans)
      if (one.lent.is_same(t)) return one.host;
    loans.push_back({t, out ? space_for(t) : operand_of(t)});
    return loans.back().host;
  }

  IValue taken(const c10::Argument& argument, const IValue& value) {
    if (value.isTensor()) return lend(value.toTensor(), false, argument.is_out());
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(lend(t, true));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const std::optional<Tensor>& t : value.toOptionalTensorVector())
        list.push_back(t ? std::optional<Tensor>(lend(*t, true)) : t);
      return list;
    }
    const bool names_dtype = value.isInt() && argument.name().find("dtype") != std::string::npos;
    if (names_dtype && is_half(value.toScalarType())) {
      asked = value.toScalarType();
      return at::kFloat;
    }
    return value;
  }

  void write_back(const Tensor& t) {
    for (const Loan& one : loans) {
      if (!one.lent.is_same(t)) continue;
      if (t.sizes() != one.host.sizes()) t.resize_(one.host.sizes());
      if (t.numel() && t.data_ptr() != one.host.data_ptr()) memory_of(t).copy_(one.host);
    }
  }

  Tensor given(const Tensor& host) {
    if (!host.defined()) return host;
    TORCH_CHECK(device, "npu: ", schema.name(), " was given no tensor of this device");
    const ScalarType own = asked ? *asked : at::native::result_type(types);
    return on_device(host, host.scalar_type() == at::kFloat && is_half(own) ? own : host.scalar_type(), *device);
  }
};

template <class Visit>
void each_tensor(const IValue& value, Visit visit) {
  if (value.isTensor() && value.toTensor().defined()) visit(value.toTensor());
  if (value.isTensorList())
    for (const Tensor& t : value.toTensorVector()) visit(t);
}

bool same_alias(const c10::Argument& one, const c10::Argument& other) {
  return one.alias_info() && other.alias_info() && one.alias_info()->isWrite() &&
         one.alias_info()->beforeSets() == other.alias_info()->beforeSets();
}

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call call{op.schema()};
  const auto& arguments = call.schema.arguments();
  const std::vector<IValue> given = torch::jit::pop(*stack, arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) stack->push_back(call.taken(arguments[i], given[i]));
  op.callBoxed(stack);
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].alias_info() && arguments[i].alias_info()->isWrite())
      each_tensor(given[i], [&](const Tensor& t) { call.write_back(t); });
  const auto& returns = call.schema.returns();
  const std::vector<IValue> found = torch::jit::pop(*stack, returns.size());
  for (size_t i = 0; i < returns.size(); ++i) {
    const auto written = std::find_if(arguments.begin(), arguments.end(),
                                      [&](const c10::Argument& one) { return same_alias(one, returns[i]); });
    if (written != arguments.end()) {
      stack->push_back(given[written - arguments.begin()]);
      continue;
    }
    TORCH_CHECK(!returns[i].alias_info(), "npu: ", call.schema.name(), " gives a view, which is not registered");
    if (found[i].isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : found[i].toTensorVector()) list.push_back(call.given(t));
      stack->push_back(list);
    } else {
      stack->push_back(found[i].isTensor() ? IValue(call.given(found[i].toTensor())) : found[i]);
    }
  }
}

Device chosen(std::optional<Device> device) {
  return device && device->has_index() ? *device : Device(NPU, current);
}

Tensor empty(IntArrayRef size, std::optional<ScalarType> dtype, std::optional<at::Layout>, std::optional<Device> device,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  check_dtype(c10::dtype_or_default(dtype));
  const c10::DeviceGuard guard(chosen(device));
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<Device> device, std::optional<bool>) {
  check_dtype(c10::dtype_or_default(dtype));
  const c10::DeviceGuard guard(chosen(device));
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

const Tensor& resize(const Tensor& t, IntArrayRef size, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(t.device());  // what it allocates belongs there
  return at::native::resize_(t, size, format);
}

// Between dtypes and devices; the one way between devices.
Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  const auto here = [](const Tensor& t) { return t.device().type() == NPU ? memory_of(t) : t; };
  here(to).copy_(here(from));
  return to;
}

// What torch makes of an LSTM's step on a device: (B, 4 H) twice, (B, H) -> h, c (B, H) and the gates (B, 4 H).
std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& input, const Tensor& hidden, const Tensor& cx,
                                             const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh) {
  Tensor sum = operand_of(input) + operand_of(hidden);
  if (b_ih && b_ih->defined()) sum = sum + operand_of(*b_ih) + operand_of(*b_hh);
  const auto part = sum.chunk(4, 1);
  const Tensor i = part[0].sigmoid(), f = part[1].sigmoid(), g = part[2].tanh(), o = part[3].sigmoid();
  const Tensor cy = f * operand_of(cx) + i * g;
  const auto give = [&](const Tensor& t) { return on_device(t, cx.scalar_type(), cx.device()); };
  return {give(o * cy.tanh()), give(cy), give(at::cat({i, f, g, o}, 1))};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const std::optional<Tensor>& grad_hy,
                                                      const std::optional<Tensor>& grad_cy, const Tensor& cx,
                                                      const Tensor& cy, const Tensor& gates, bool has_bias) {
  const auto part = operand_of(gates).chunk(4, 1);
  const Tensor i = part[0], f = part[1], g = part[2], o = part[3], t = operand_of(cy).tanh();
  const Tensor dh = grad_hy && grad_hy->defined() ? operand_of(*grad_hy) : at::zeros_like(t);
  Tensor dc = dh * o * (1 - t * t);
  if (grad_cy && grad_cy->defined()) dc = dc + operand_of(*grad_cy);
  const Tensor d = at::cat({dc * g * i * (1 - i), dc * operand_of(cx) * f * (1 - f), dc * i * (1 - g * g),
                            dh * t * o * (1 - o)}, 1);
  const auto give = [&](const Tensor& x) { return on_device(x, cx.scalar_type(), cx.device()); };
  return {give(d), give(dc * f), has_bias ? give(d.sum(0)) : Tensor()};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("resize_", TORCH_FN(resize));
  m.impl("_thnn_fused_lstm_cell", TORCH_FN(lstm_cell));
  m.impl("_thnn_fused_lstm_cell_backward_impl", TORCH_FN(lstm_cell_backward));
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

}  // namespace
