#include "nn/device.hpp"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

namespace divergen::nn {

at::Device device_of(const comm::World& world) {
  if (!at::globalContext().hasCUDA()) return at::kCPU;
  const int count = at::detail::getCUDAHooks().deviceCount();
  if (count <= 0) return at::kCPU;
  return {at::kCUDA, static_cast<at::DeviceIndex>(world.local_rank() % count)};
}

std::string gpu_name(int index) {
  std::vector<std::filesystem::path> folders;  // named after the PCI bus, whose order CUDA follows by default
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", absent))
    folders.push_back(entry.path());
  if (folders.empty()) return "GPU";
  std::sort(folders.begin(), folders.end());
  std::ifstream facts(folders[static_cast<std::size_t>(std::max(index, 0)) % folders.size()] / "information");
  for (std::string line; std::getline(facts, line);)
    if (line.starts_with("Model:"))
      if (const auto begin = line.find_first_not_of(" \t", 6); begin != std::string::npos) return line.substr(begin);
  return "GPU";
}

}  // namespace divergen::nn
