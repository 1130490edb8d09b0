// An annotation file of a stranger: read or refused, and the same by one thread and by three. What the scanner takes or
// refuses as JSON is what nlohmann::json takes or refuses.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "lvis/dataset.hpp"
#include "lvis/json_scanner.hpp"

namespace {

using namespace divergen;

bool ours_takes(std::string_view text) {
  const lvis::Text padded = lvis::Text::copy(text);
  lvis::Scanner scanner(padded.begin(), padded.end());
  try {
    scanner.skip_value();
    return scanner.peek() == 0 && scanner.position() == padded.end();
  } catch (const lvis::Malformed&) {
    return false;
  }
}

/// Where the two may differ: what is nested deeper than we read; a byte order mark, and all that follows a zero byte,
/// which nlohmann passes over.
bool is_read_otherwise(std::string_view text) {
  int depth = 0, most = 0;
  for (const char c : text) {
    if (c == '[' || c == '{') most = std::max(most, ++depth);
    if (c == ']' || c == '}') --depth;
  }
  return most > lvis::Scanner::kDepth || text.starts_with("\xEF\xBB\xBF") || text.find('\0') != std::string_view::npos;
}

/// A text that tells two readings apart.
std::string outcome(std::string_view text, unsigned threads) {
  try {
    const lvis::Dataset dataset = lvis::parse_dataset(text, "input.json", {threads});
    std::string out;
    for (const lvis::Annotation& a : dataset.annotations) {
      out += cat(a.id, " ", a.area, " ", a.polygons.size(), " ", a.rle.counts.size(), ";");
      const lvis::ImageRecord image = dataset.images[dataset.image_index.at(a.image_id)];
      if (std::int64_t{image.height} * image.width < 1 << 16) try {
          out += cat(mask::area(dataset.mask_of(a)));
        } catch (const Error&) {
          out += "no mask";
        }
    }
    return out;
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (ours_takes(text) != nlohmann::json::accept(text) && !is_read_otherwise(text)) std::abort();
  if (outcome(text, 1) != outcome(text, 3)) std::abort();
  return 0;
}
