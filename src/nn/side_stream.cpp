#include "nn/side_stream.hpp"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "base/error.hpp"

namespace divergen::nn {

SideStream::SideStream(at::Device device) {
  if (device.is_cpu()) return;
  stream_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
}

SideStream::Scope::Scope(const SideStream& side, std::initializer_list<at::Tensor> inputs) {
  if (!side.stream_) return;
  const c10::impl::VirtualGuardImpl guard(side.stream_->device_type());
  c10::Event queued(side.stream_->device_type());
  queued.record(guard.getStream(side.stream_->device()));
  queued.block(*side.stream_);
  for (const at::Tensor& input : inputs) {
    DIVERGEN_CHECK(input.device() == side.stream_->device(), "an input lies on another device");
    // The allocator must not give its memory to the current stream before this one has read it.
    guard.recordDataPtrOnStream(input.storage().data_ptr(), *side.stream_);
  }
  previous_ = guard.exchangeStream(*side.stream_);
}

SideStream::Scope::~Scope() {
  if (previous_) c10::impl::VirtualGuardImpl(previous_->device_type()).exchangeStream(*previous_);
}

}  // namespace divergen::nn
