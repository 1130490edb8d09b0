#pragma once
// Extra categories for category diversity (DiverGen §3.2): of a list of synsets, those that are far enough from every
// category that is evaluated.
//
// Which similarity and bound DiverGen took is told in no text or code; its file's name says "filtered04". Found here:
// of the 1,000 synsets of ImageNet-1K, 566 have a path similarity below 0.4 to every LVIS category, which is the
// paper's number, and the first 250 of them in ImageNet's order are the published extra categories. So these are the
// defaults.

#include <string>
#include <vector>

#include "base/fs.hpp"
#include "stages/propose/wordnet.hpp"

namespace divergen::stages {

struct ProposeOptions {
  std::string measure = "path";  // "path" | "wup"
  double bound = 0.4;            // proposed when the similarity to every category is below it
};

/// A category that is evaluated, by its synset.
struct KnownCategory {
  std::string name, synset;
};

struct Candidate {
  std::string given;    // as in the list: "n01440764" or "tench.n.01"
  std::string synset;   // "tench.n.01"; empty when WordNet has none of that name
  std::string nearest;  // synset of the nearest category
  double similarity = 0;
  bool is_proposed = false;
  std::string why_not;  // "unknown synset", "too near", "listed twice"; empty when proposed
};

struct Proposal {
  std::vector<Candidate> candidates;            // in the order of the list
  std::vector<std::string> unknown_categories;  // names of known categories whose synset WordNet does not have
};

Proposal propose(const WordNet& wordnet, const std::vector<KnownCategory>& known,
                 const std::vector<std::string>& synsets, const ProposeOptions& options);

/// Synsets of a text file (one a line; what follows the first space is ignored; '#' begins a comment), or of a JSON
/// list of texts or of objects with `synset`. Throws Error(Io | Data).
std::vector<std::string> read_synsets(const Path& file);

/// The category file's list with the proposed ones appended as `role` "extra", ids from `first_id` upwards (0: after
/// the largest), each with name, def, synonyms and synset from WordNet. Returns JSON text for data.categories.
std::string with_extra_categories(const Path& categories, const WordNet& wordnet, const Proposal& proposal,
                                  std::int64_t first_id);

/// The categories of a file that are evaluated (role "eval" or none), with their synsets. Throws Error(Data) when none
/// of them has a synset.
std::vector<KnownCategory> read_known_categories(const Path& categories);

}  // namespace divergen::stages
