#pragma once
// The same weights under other names and in other layouts.

#include <memory>
#include <string>
#include <vector>

#include "weights/weights.hpp"

namespace divergen::weights {

struct KeyMapInfo {
  std::string name, description;
};
/// clip-openai-to-hf, clip-hf-to-openai, clipseg-to-hf, vae-old-to-new, vae-new-to-old.
const std::vector<KeyMapInfo>& key_maps();

/// `source` seen through a map; values are split, joined or transposed as they are read. Facts: reference/generation.md
/// §2 (names and shapes of the published files), tables in the fixtures' keys/generation.
///
///   clip-openai-to-hf   OpenAI's state_dict or TorchScript archive -> transformers' CLIPModel: in_proj is split into
///   q,
///                       k, v; the two projections are transposed; the three integers are dropped
///   clip-hf-to-openai   back; position_ids are dropped, the three integers do not come back (they are sizes)
///   clipseg-to-hf       github.com/timojl/clipseg (models/clipseg.py; the published files hold the decoder alone) ->
///                       transformers' CLIPSegForImageSegmentation; its second copy of the image tower is dropped
///   vae-old-to-new      diffusers before 0.13: query, key, value, proj_attn in attentions -> to_q, to_k, to_v,
///   to_out.0 vae-new-to-old      back
///
/// Throws Error(Config) for an unknown map, with the nearest; Error(Data) naming the key that is not of the model the
/// map is for, or whose parts do not fit each other.
std::unique_ptr<WeightSource> map_keys(std::shared_ptr<const WeightSource> source, const std::string& map);

}  // namespace divergen::weights
