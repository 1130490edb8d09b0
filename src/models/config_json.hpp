#pragma once
// Reading the config.json of a model folder: a wrong or missing value is named with its file and key.

#include <string>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/fs.hpp"

namespace divergen::models {

/// A parsed config.json that knows its file.
class ModelConfig {
 public:
  explicit ModelConfig(const Path& file) : file_(file.string()) {
    json_ = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
    if (!json_.is_object())
      fail(ErrorKind::Data,
           {"a model's configuration is damaged", file_, "it is not a JSON object", "restore the file"});
  }
  ModelConfig(nlohmann::json json, std::string name) : file_(std::move(name)), json_(std::move(json)) {}

  bool has(const std::string& key) const { return json_.contains(key) && !json_[key].is_null(); }
  const nlohmann::json& json() const { return json_; }
  const std::string& file() const { return file_; }

  /// The value of `key`. Throws Error(Data) when it is missing or of another type.
  template <class T>
  T get(const std::string& key) const {
    if (!has(key)) refuse(key, "it is missing");
    try {
      return json_.at(key).get<T>();
    } catch (const nlohmann::json::exception& error) {
      refuse(key, error.what());
    }
  }
  /// The value of `key`, or `otherwise` where the file does not say.
  template <class T>
  T get(const std::string& key, T otherwise) const {
    return has(key) ? get<T>(key) : otherwise;
  }
  /// Refuses configurations that the modules do not compute, instead of computing something else.
  template <class T>
  void require(const std::string& key, const T& expected) const {
    if (has(key) && get<T>(key) != expected)
      refuse(key, cat("only ", nlohmann::json(expected).dump(), " is supported, not ", json_.at(key).dump()));
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    fail(ErrorKind::Data, {"a model's configuration cannot be used", cat(file_, " [", key, "]"), why,
                           "name a folder of the official layout"});
  }

 private:
  std::string file_;
  nlohmann::json json_;
};

}  // namespace divergen::models
