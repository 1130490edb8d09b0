#include "stages/propose/wordnet.hpp"

#include <algorithm>
#include <charconv>
#include <deque>

#include "base/error.hpp"
#include "base/text.hpp"

namespace divergen::stages {
namespace {

/// The words of one line, taken one after the other; complains with file and line.
class Words {
 public:
  Words(const Path& file, std::size_t line, std::string_view text) : file_(file), line_(line), rest_(text) {}

  std::string_view next() {
    while (!rest_.empty() && rest_.front() == ' ') rest_.remove_prefix(1);
    if (rest_.empty()) refuse("it ends too early");
    const std::size_t end = std::min(rest_.find(' '), rest_.size());
    const std::string_view word = rest_.substr(0, end);
    rest_.remove_prefix(end);
    return word;
  }
  std::int64_t number(int base = 10) {
    const std::string_view word = next();
    std::int64_t value = 0;
    const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), value, base);
    if (problem != std::errc{} || end != word.data() + word.size() || value < 0)
      refuse(cat("'", word, "' is no number"));
    return value;
  }
  std::string_view rest() const { return rest_; }
  [[noreturn]] void refuse(const std::string& why) const {
    fail(ErrorKind::Data, {"the WordNet database cannot be used", cat(file_.string(), ":", line_), why,
                           "install the Debian package wordnet-base again"});
  }

 private:
  const Path& file_;
  std::size_t line_;
  std::string_view rest_;
};

/// Calls `use` for each line but the licence, whose lines begin with a space.
template <class Use>
void for_each_entry(const Path& file, const Use& use) {
  if (!std::filesystem::exists(file))
    fail(ErrorKind::Io, {"the WordNet database is missing", file.string(), "there is no such file",
                         "install the Debian package wordnet-base, or name the folder with --wordnet"});
  const std::string text = read_file(file);
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line(text.data() + begin, end - begin);
    ++number;
    if (!line.empty() && line.front() != ' ') use(line, number);
    begin = end + 1;
  }
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

/// A gloss is the definition, then examples in quotation marks.
std::string definition_of(std::string_view gloss) {
  const std::size_t examples = gloss.find("; \"");
  std::string_view out = gloss.substr(0, examples);
  while (!out.empty() && (out.front() == ' ' || out.front() == '|')) out.remove_prefix(1);
  while (!out.empty() && (out.back() == ' ' || out.back() == ';')) out.remove_suffix(1);
  return std::string(out);
}

}  // namespace

WordNet::WordNet(const Path& folder) {
  read_data(folder / "data.noun");
  read_index(folder / "index.noun");
  measure_depths();
}

/// offset lexicographer-file type words {word lexical-id} pointers {symbol offset type source-target} | gloss
void WordNet::read_data(const Path& file) {
  std::vector<std::vector<std::int64_t>> parents;
  for_each_entry(file, [&](std::string_view line, std::size_t number) {
    Words words(file, number, line);
    const std::int64_t offset = words.number();
    words.next();
    if (words.next() != "n") words.refuse("it is no noun");
    std::string lemmas;
    for (std::int64_t n = words.number(16); n > 0; --n) {
      lemmas += cat(lemmas.empty() ? "" : " ", words.next());
      words.next();
    }
    std::vector<std::int64_t> up;
    for (std::int64_t n = words.number(); n > 0; --n) {
      const std::string_view symbol = words.next();
      const std::int64_t target = words.number();
      const std::string_view type = words.next();
      words.next();
      if ((symbol == "@" || symbol == "@i") && type == "n") up.push_back(target);
    }
    if (!by_offset_.emplace(offset, static_cast<Node>(offsets_.size())).second) words.refuse("its offset stands twice");
    offsets_.push_back(offset);
    lemmas_.push_back(std::move(lemmas));
    definitions_.push_back(definition_of(words.rest()));
    parents.push_back(std::move(up));
  });
  hypernyms_.resize(parents.size());
  names_.resize(parents.size());
  for (std::size_t i = 0; i < parents.size(); ++i)
    for (const std::int64_t offset : parents[i]) {
      const auto found = by_offset_.find(offset);
      if (found == by_offset_.end())
        fail(ErrorKind::Data, {"the WordNet database cannot be used", file.string(),
                               cat("synset ", offsets_[i], " names the hypernym ", offset, ", which is not there"),
                               "install the Debian package wordnet-base again"});
      hypernyms_[i].push_back(found->second);
    }
}

/// lemma type synsets pointers {symbol} senses tagged {offset}
void WordNet::read_index(const Path& file) {
  for_each_entry(file, [&](std::string_view line, std::size_t number) {
    Words words(file, number, line);
    const std::string lemma(words.next());
    words.next();
    const std::int64_t count = words.number();
    for (std::int64_t n = words.number(); n > 0; --n) words.next();
    words.next();
    words.next();
    std::vector<Node> senses;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto found = by_offset_.find(words.number());
      if (found == by_offset_.end()) words.refuse("it names a synset that data.noun does not hold");
      senses.push_back(found->second);
    }
    by_lemma_.emplace(lemma, std::move(senses));
  });
  // A synset is named by its first lemma and the place it has among that lemma's senses.
  for (std::size_t i = 0; i < offsets_.size(); ++i) {
    const std::string first = lower(lemmas_[i].substr(0, lemmas_[i].find(' ')));
    const auto found = by_lemma_.find(first);
    if (found == by_lemma_.end()) continue;
    const auto sense = std::find(found->second.begin(), found->second.end(), static_cast<Node>(i));
    const auto place = sense - found->second.begin() + 1;
    names_[i] = cat(first, ".n.", place < 10 ? "0" : "", place);
  }
}

std::int32_t WordNet::depth(Node node, std::vector<std::int32_t>& depths, bool largest) const {
  std::int32_t& own = depths[at(node)];
  if (own >= 0) return own;
  std::int32_t best = -1;
  for (const Node up : hypernyms_[at(node)]) {
    const std::int32_t d = depth(up, depths, largest);
    best = best < 0 ? d : largest ? std::max(best, d) : std::min(best, d);
  }
  return depths[at(node)] = best + 1;
}

void WordNet::measure_depths() {
  least_depth_.assign(size(), -1);
  largest_depth_.assign(size(), -1);
  for (std::size_t i = 0; i < size(); ++i) {
    depth(static_cast<Node>(i), least_depth_, false);
    depth(static_cast<Node>(i), largest_depth_, true);
  }
}

std::optional<WordNet::Node> WordNet::find(std::string_view text) const {
  if (text.size() == 9 && text.front() == 'n') {
    std::int64_t offset = 0;
    const auto [end, problem] = std::from_chars(text.data() + 1, text.data() + text.size(), offset);
    if (problem == std::errc{} && end == text.data() + text.size()) {
      const auto found = by_offset_.find(offset);
      return found == by_offset_.end() ? std::nullopt : std::optional(found->second);
    }
  }
  const std::size_t number_at = text.rfind('.');
  if (number_at == std::string_view::npos || number_at < 2 || text.substr(number_at - 2, 3) != ".n.")
    return std::nullopt;
  std::size_t sense = 0;
  const auto [end, problem] = std::from_chars(text.data() + number_at + 1, text.data() + text.size(), sense);
  if (problem != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  const auto found = by_lemma_.find(lower(text.substr(0, number_at - 2)));
  if (found == by_lemma_.end() || sense < 1 || sense > found->second.size()) return std::nullopt;
  return found->second[sense - 1];
}

std::vector<std::string> WordNet::lemmas(Node node) const { return split(lemmas_[at(node)], ' '); }

std::vector<WordNet::Ancestor> WordNet::ancestors(Node node) const {
  std::vector<Ancestor> out{{node, 0}};
  for (std::size_t i = 0; i < out.size(); ++i)  // breadth first, so that the first visit has the fewest steps
    for (const Node up : hypernyms_[at(out[i].node)])
      if (std::none_of(out.begin(), out.end(), [&](const Ancestor& a) { return a.node == up; }))
        out.push_back({up, out[i].distance + 1});
  return out;
}

double WordNet::path_similarity(Node a, Node b) const {
  std::int32_t shortest = -1;
  const auto of_b = ancestors(b);
  for (const Ancestor& x : ancestors(a))
    for (const Ancestor& y : of_b)
      if (x.node == y.node && (shortest < 0 || x.distance + y.distance < shortest)) shortest = x.distance + y.distance;
  return shortest < 0 ? 0.0 : 1.0 / (1.0 + shortest);
}

double WordNet::wup_similarity(Node a, Node b) const {
  const auto of_a = ancestors(a), of_b = ancestors(b);
  double best = 0;
  std::int32_t deepest = -1;
  for (const Ancestor& x : of_a)
    for (const Ancestor& y : of_b) {
      if (x.node != y.node || least_depth_[at(x.node)] < deepest) continue;
      const double depth = largest_depth_[at(x.node)] + 1;
      const double similarity = 2 * depth / (x.distance + y.distance + 2 * depth);
      best = least_depth_[at(x.node)] > deepest ? similarity : std::max(best, similarity);
      deepest = least_depth_[at(x.node)];
    }
  return best;
}

}  // namespace divergen::stages
