#include "stages/augment/picture_sources.hpp"

#include "base/error.hpp"
#include "base/log.hpp"

namespace divergen::stages {

void Unreadable::add(std::size_t key, const std::string& object, const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (keys_.insert(key).second) log::warn(kind_, " is left out: ", object, ": ", why);
}
bool Unreadable::contains(std::size_t key) const {
  const std::lock_guard lock(mutex_);
  return keys_.contains(key);
}
std::set<std::size_t> Unreadable::keys() const {
  const std::lock_guard lock(mutex_);
  return keys_;
}

ImageSource::ImageSource(const lvis::Dataset& dataset, Path folder, const std::vector<std::uint32_t>& used,
                         std::size_t cache_bytes)
    : dataset_(dataset), folder_(std::move(folder)) {
  std::size_t bytes = 0;
  for (const std::uint32_t index : used) {
    const lvis::ImageRecord& record = dataset.images[index];
    bytes += static_cast<std::size_t>(record.height) * static_cast<std::size_t>(record.width) * 3;
  }
  if (bytes <= cache_bytes) cache_ = std::make_unique<PictureCache>(cache_bytes);
}

PictureCache::Picture ImageSource::read(std::size_t index) const {
  if (unreadable_.contains(index)) return nullptr;  // once is enough, and keeps later samples the same
  const lvis::ImageRecord& record = dataset_.images[index];
  image::Decoded decoded;
  try {
    decoded = image::decode(read_file(folder_ / record.file), image::Channels::Rgb, true);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Io) throw;
    decoded.problem = error.what();
  }
  if (decoded.image && (decoded.image->height != record.height || decoded.image->width != record.width)) {
    decoded.problem = cat("it has ", decoded.image->width, "x", decoded.image->height, " pixels, the annotations say ",
                          record.width, "x", record.height);
    decoded.image.reset();
  }
  if (decoded.image) return std::make_shared<const image::Image>(std::move(*decoded.image));
  unreadable_.add(index, (folder_ / record.file).string(), decoded.problem);
  return nullptr;
}

PictureCache::Picture ImageSource::picture(std::size_t index) const {
  return cache_ != nullptr ? cache_->get(index, [&] { return read(index); }) : read(index);
}

PoolSource::PoolSource(std::shared_ptr<const InstancePool> pool, std::size_t cache_bytes)
    : pool_(std::move(pool)), cache_(cache_bytes) {}

InstanceSource::Instance PoolSource::load(std::size_t index, std::size_t instance) const {
  const std::size_t entry = pool_->by_class()[index][instance];
  return {cache_.get(entry, [&] { return read(entry); }), true};
}

std::optional<InstanceSource::Size> PoolSource::size(std::size_t index, std::size_t instance) const {
  const store::Library::Entry& entry = pool_->library().entries()[pool_->by_class()[index][instance]];
  if (entry.height < 1 || entry.width < 1) return std::nullopt;
  return Size{entry.height, entry.width};
}

PictureCache::Picture PoolSource::read(std::size_t entry) const {
  if (unreadable_.contains(entry)) return nullptr;
  const store::Library::Entry& stored = pool_->library().entries()[entry];
  const std::string name = cat("instance ", entry, " of the library");
  try {
    image::Decoded decoded = image::decode(pool_->library().read_png(entry), image::Channels::Rgba);
    if (decoded.image && stored.height > 0 &&
        (decoded.image->height != stored.height || decoded.image->width != stored.width)) {
      decoded.problem = cat("it has ", decoded.image->width, "x", decoded.image->height, " pixels, the library says ",
                            stored.width, "x", stored.height);
      decoded.image.reset();
    }
    if (decoded.image) return std::make_shared<const image::Image>(std::move(*decoded.image));
    unreadable_.add(entry, name, decoded.problem);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::Data) throw;
    unreadable_.add(entry, name, error.what());
  }
  return nullptr;
}

}  // namespace divergen::stages
