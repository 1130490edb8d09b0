#include "stages/train/checkpoint.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/fault.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/walltime.hpp"
#include "nn/tensor_io.hpp"

namespace divergen::stages {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "divergen-checkpoint";
constexpr int kVersion = 1;
constexpr const char* kPrefix = "iter-";

std::string folder_name(std::int64_t iteration) {
  char name[32];
  std::snprintf(name, sizeof name, "%s%08lld", kPrefix, static_cast<long long>(iteration));
  return name;
}

[[noreturn]] void refuse(const Path& checkpoint, const std::string& why) {
  fail(ErrorKind::Data, {"a checkpoint cannot be used", checkpoint.string(), why,
                         "remove this folder; the training goes on from the checkpoint before it"});
}

json to_json(const CheckpointState& state) {
  return {{"format", kFormat},
          {"version", kVersion},
          {"iteration", state.iteration},
          {"seconds", state.seconds},
          {"seed", state.seed},
          {"ranks", state.ranks},
          {"first_ranks", state.first_ranks},
          {"fingerprint", state.fingerprint},
          {"config_hash", state.config_hash},
          {"software", state.software},
          {"random", "every draw of step i comes from (seed, i, rank), every sample from (seed, position)"},
          {"window",
           {{"steps", state.window.steps},
            {"sums", state.window.sums},
            {"waited", state.window.waited},
            {"seconds", state.window.seconds}}}};
}

std::string to_text(const json& state) { return state.dump(1) + "\n"; }

/// Of everything that state.json says but this hash itself.
std::string own_hash(json state) {
  state.erase("hash");
  return to_hex(hash128(state.dump()));
}

json read_state_json(const Path& checkpoint) {
  const std::string text = read_file(checkpoint / "state.json");
  const json state = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!state.is_object() || state.value("format", "") != kFormat || state.value("version", 0) != kVersion)
    refuse(checkpoint, "state.json is not of this format and version");
  const auto hash = state.find("hash");
  // The text too: a flipped bit may make another one of the same values (1e-5, 1E-5), but the disk is then no better.
  if (hash == state.end() || *hash != own_hash(state) || text != to_text(state))
    refuse(checkpoint, "state.json has other contents than were written");
  return state;
}

/// Removes a folder so that it is never seen half removed under its own name.
void remove_folder(const Path& folder) {
  const Path aside = part_name(folder);
  std::error_code error;
  std::filesystem::rename(folder, aside, error);
  if (error) fail_errno("cannot remove an old checkpoint", folder.string(), error.value());
  std::filesystem::remove_all(aside, error);
}

/// Reads back what was written; the file system's word is not enough for the only copy of days of work.
void compare_with_memory(const Path& file, const std::vector<std::pair<std::string, at::Tensor>>& entries) {
  const weights::SafetensorsFile written(file);
  for (const auto& [name, tensor] : entries) {
    const auto* info = written.find(name);
    const at::Tensor held = tensor.detach().cpu().contiguous();
    const bool same =
        info != nullptr && written.bytes(*info).size() == held.nbytes() &&
        (held.nbytes() == 0 || std::memcmp(written.bytes(*info).data(), held.const_data_ptr(), held.nbytes()) == 0);
    if (!same)
      fail(ErrorKind::Io, {"a checkpoint was not written as it should be", file.string(),
                           cat("'", name, "' reads back differently"), "check the file system, then start again"});
  }
}

}  // namespace

StateTensors snapshot(const StateTensors& tensors) {
  at::NoGradGuard no_grad;
  StateTensors out;
  for (const auto& [file, entries] : tensors)
    for (const auto& [name, tensor] : entries)
      out[file].emplace_back(name, tensor.detach().to(at::kCPU, /*non_blocking=*/false, /*copy=*/true));
  return out;
}

void write_checkpoint(const Path& folder, const CheckpointState& state, const StateTensors& tensors) {
  make_folder(folder);
  const Path target = folder / folder_name(state.iteration);
  const Path part = part_name(target);
  const CommitTimer timer;
  try {
    make_folder(part);
    json files = json::object();
    for (const auto& [file, entries] : tensors) {
      const std::string name = file + ".safetensors";
      nn::save_tensors(part / name, entries, {{"iteration", std::to_string(state.iteration)}});
      compare_with_memory(part / name, entries);
      files[name] = {{"hash", to_hex(hash_file(part / name))}, {"bytes", std::filesystem::file_size(part / name)}};
    }
    json text = to_json(state);
    text["files"] = files;
    text["hash"] = own_hash(text);
    write_file_atomic(part / "state.json", to_text(text));
    fsync_folder(part);
    if (std::filesystem::exists(target)) remove_folder(target);
    std::error_code error;
    std::filesystem::rename(part, target, error);
    if (error) fail_errno("cannot publish a checkpoint", target.string(), error.value());
    fsync_folder(folder);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(part, ignored);
    throw;
  }
}

std::vector<CheckpointEntry> list_checkpoints(const Path& folder) {
  std::vector<CheckpointEntry> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const std::string digits = name.starts_with(kPrefix) ? name.substr(std::string(kPrefix).size()) : "";
    if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) continue;
    out.push_back({entry.path(), std::stoll(digits)});
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.iteration > b.iteration; });
  return out;
}

std::optional<std::string> verify_checkpoint(const Path& checkpoint) {
  try {
    const json state = read_state_json(checkpoint);
    (void)read_checkpoint_state(checkpoint);
    const auto files = state.find("files");
    if (files == state.end() || !files->is_object() || !files->contains("model.safetensors"))
      return "state.json names no files";
    for (const auto& [name, facts] : files->items()) {
      const Path file = checkpoint / Path(name).filename();
      if (!std::filesystem::exists(file)) return cat(name, " is missing");
      if (std::filesystem::file_size(file) != facts.at("bytes").get<std::uintmax_t>())
        return cat(name, " has another size than was written");
      if (to_hex(hash_file(file)) != facts.at("hash").get<std::string>())
        return cat(name, " has other contents than were written");
    }
    return std::nullopt;
  } catch (const Error& error) {
    return error.text().why.empty() ? error.text().what : error.text().why;
  } catch (const std::exception& error) {
    return error.what();
  }
}

CheckpointState read_checkpoint_state(const Path& checkpoint) {
  const json text = read_state_json(checkpoint);
  try {
    CheckpointState state;
    state.iteration = text.at("iteration").get<std::int64_t>();
    state.seconds = text.at("seconds").get<double>();
    state.seed = text.at("seed").get<std::uint64_t>();
    state.ranks = text.at("ranks").get<std::int64_t>();
    state.first_ranks = text.value("first_ranks", state.ranks);
    state.fingerprint = text.at("fingerprint").get<std::string>();
    state.config_hash = text.at("config_hash").get<std::string>();
    state.software = text.at("software").get<std::string>();
    const json& window = text.at("window");
    state.window.steps = window.at("steps").get<std::int64_t>();
    state.window.sums = window.at("sums").get<std::map<std::string, double>>();
    state.window.waited = window.at("waited").get<double>();
    state.window.seconds = window.at("seconds").get<double>();
    return state;
  } catch (const json::exception& error) {
    refuse(checkpoint, cat("state.json lacks a value: ", error.what()));
  }
}

std::optional<CheckpointEntry> newest_checkpoint(const Path& folder) {
  for (const CheckpointEntry& entry : list_checkpoints(folder)) {
    const auto why = verify_checkpoint(entry.path);
    if (!why) return entry;
    log::warn("the checkpoint ", entry.path.string(), " is damaged and is not used: ", *why);
  }
  return std::nullopt;
}

void load_checkpoint(const Path& checkpoint, const StateTensors& tensors) {
  at::NoGradGuard no_grad;
  for (const auto& [file, entries] : tensors) {
    const Path path = checkpoint / (file + ".safetensors");
    const nn::TensorMap saved = nn::load_tensors(path);
    if (saved.size() != entries.size())
      refuse(checkpoint, cat(path.filename().string(), " holds ", saved.size(), " tensors, not ", entries.size()));
    for (const auto& [name, tensor] : entries) {
      const auto found = saved.find(name);
      if (found == saved.end() || found->second.sizes() != tensor.sizes())
        refuse(checkpoint, cat("'", name, "' in ", path.filename().string(), " is missing or of another shape"));
      at::Tensor target = tensor.detach();
      target.copy_(found->second);
    }
  }
}

void prune_checkpoints(const Path& folder, std::int64_t newest, const Keeping& keeping) {
  std::int64_t kept = 0;
  for (const CheckpointEntry& entry : list_checkpoints(folder)) {
    const bool stays = entry.iteration <= newest && ++kept <= std::max<std::int64_t>(keeping.newest, 1);
    const bool is_milestone = entry.iteration <= newest && keeping.every > 0 && entry.iteration % keeping.every == 0;
    if (!stays && !is_milestone) remove_folder(entry.path);
  }
}

CheckpointWriter::~CheckpointWriter() {
  if (writing_.valid()) writing_.wait();
}

void CheckpointWriter::start(CheckpointState state, const StateTensors& tensors) {
  wait();
  writing_ = std::async(std::launch::async, [this, state = std::move(state), held = snapshot(tensors)] {
    fault::reach("checkpoint.begin");
    write_checkpoint(folder_, state, held);
    // write_checkpoint has read the new one back, so that the old ones are no longer needed.
    prune_checkpoints(folder_, state.iteration, keeping_);
  });
}

bool CheckpointWriter::has_failed() {
  if (problem_) return true;
  if (!writing_.valid() || writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return false;
  try {
    writing_.get();
  } catch (...) {
    problem_ = std::current_exception();
  }
  return problem_ != nullptr;
}

void CheckpointWriter::wait() {
  if (writing_.valid()) writing_.wait();
  if (has_failed()) std::rethrow_exception(std::exchange(problem_, nullptr));
}

}  // namespace divergen::stages
