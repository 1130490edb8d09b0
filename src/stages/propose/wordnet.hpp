#pragma once
// The nouns of WordNet 3.0 as a graph of hypernyms, read from the database files of the Debian package `wordnet-base`
// (format: wndb(5WN)), and the two similarities of nltk that rest on that graph alone.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fs.hpp"

namespace divergen::stages {

class WordNet {
 public:
  using Node = std::int32_t;  // index of a synset
  struct Ancestor {
    Node node = 0;
    std::int32_t distance = 0;  // fewest hypernym steps up to it
  };

  /// Reads `index.noun` and `data.noun` of a folder. Throws Error(Io) when one is missing, Error(Data) when a line does
  /// not have the format.
  explicit WordNet(const Path& folder);

  std::size_t size() const { return names_.size(); }

  /// A synset by its name ("tench.n.01": lemma, part of speech, number of the sense) or ImageNet's id ("n01440764": the
  /// offset in data.noun). Nothing when there is none.
  std::optional<Node> find(std::string_view text) const;

  const std::string& name(Node node) const { return names_[at(node)]; }              // "tench.n.01"
  const std::string& definition(Node node) const { return definitions_[at(node)]; }  // without the examples
  std::vector<std::string> lemmas(Node node) const;                                  // in the file's order
  std::int64_t offset(Node node) const { return offsets_[at(node)]; }

  /// The node itself (distance 0) and all its hypernyms, instance hypernyms too; nearest first.
  std::vector<Ancestor> ancestors(Node node) const;

  /// 1 / (1 + edges of the shortest way over a common hypernym), nltk's path_similarity; 0 without a common one.
  double path_similarity(Node a, Node b) const;
  /// Wu and Palmer's 2·depth(common) / (depth(a) + depth(b)), with nltk's choice of the common hypernym (largest least
  /// depth) and of depths.
  double wup_similarity(Node a, Node b) const;

 private:
  static std::size_t at(Node node) { return static_cast<std::size_t>(node); }
  void read_data(const Path& file);
  void read_index(const Path& file);
  void measure_depths();
  std::int32_t depth(Node node, std::vector<std::int32_t>& depths, bool largest) const;

  std::vector<std::int64_t> offsets_;
  std::vector<std::string> names_, definitions_;
  std::vector<std::string> lemmas_;  // of a node, separated by spaces
  std::vector<std::vector<Node>> hypernyms_;
  std::vector<std::int32_t> least_depth_, largest_depth_;
  std::unordered_map<std::int64_t, Node> by_offset_;
  std::unordered_map<std::string, std::vector<Node>> by_lemma_;  // lower case, senses in order
};

}  // namespace divergen::stages
