#pragma once
// A second queue of work on a device, so that what follows from a batch (decoding, copying) runs beside the next batch.

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <initializer_list>
#include <optional>

namespace divergen::nn {

/// On a GPU, a stream of its own; on the CPU, where calls are done when they return, nothing at all. Not thread-safe.
class SideStream {
 public:
  explicit SideStream(at::Device device);

  /// Calls action() with its kernels on this stream: they start when what was queued so far on the current stream is
  /// done, and hold up nothing that is queued there afterwards. `inputs` are the tensors that it reads and that the
  /// caller may drop before the device has read them; weights, which stay, need not be named. What action returns must
  /// be used on this stream, or after an event that it has recorded (models::start_pictures does so). Returns action's
  /// result; the current stream is the old one again, also after an exception.
  template <class Action>
  auto run(std::initializer_list<at::Tensor> inputs, Action&& action) {
    const Scope scope(*this, inputs);
    return action();
  }

 private:
  class Scope {
   public:
    Scope(const SideStream& side, std::initializer_list<at::Tensor> inputs);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    std::optional<c10::Stream> previous_;
  };

  std::optional<c10::Stream> stream_;  // none on the CPU
};

}  // namespace divergen::nn
