#include "weights/key_maps.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "base/error.hpp"
#include "base/text.hpp"
#include "weights/mapped_source.hpp"

namespace divergen::weights {
namespace {

struct Pair {
  std::string_view first, second;
};

const Pair* find_first(std::span<const Pair> pairs, std::string_view name) {
  const auto found = std::find_if(pairs.begin(), pairs.end(), [&](const Pair& p) { return p.first == name; });
  return found == pairs.end() ? nullptr : &*found;
}
const Pair* find_second(std::span<const Pair> pairs, std::string_view name) {
  const auto found = std::find_if(pairs.begin(), pairs.end(), [&](const Pair& p) { return p.second == name; });
  return found == pairs.end() ? nullptr : &*found;
}

// ---- CLIP: OpenAI (first), transformers (second) -------------------------------------------------------------------

constexpr std::array<Pair, 14> kClip{
    {{"logit_scale", "logit_scale"},
     {"token_embedding.weight", "text_model.embeddings.token_embedding.weight"},
     {"positional_embedding", "text_model.embeddings.position_embedding.weight"},
     {"ln_final.weight", "text_model.final_layer_norm.weight"},
     {"ln_final.bias", "text_model.final_layer_norm.bias"},
     {"visual.class_embedding", "vision_model.embeddings.class_embedding"},
     {"visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"},
     {"visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"},
     {"visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"},
     {"visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"},
     {"visual.ln_post.weight", "vision_model.post_layernorm.weight"},
     {"visual.ln_post.bias", "vision_model.post_layernorm.bias"},
     // transposed: OpenAI multiplies from the right
     {"text_projection", "text_projection.weight"},
     {"visual.proj", "visual_projection.weight"}}};
constexpr std::array<Pair, 2> kTransposed{{kClip[12], kClip[13]}};
constexpr std::array<Pair, 10> kBlock{{{"attn.out_proj.weight", "self_attn.out_proj.weight"},
                                       {"attn.out_proj.bias", "self_attn.out_proj.bias"},
                                       {"ln_1.weight", "layer_norm1.weight"},
                                       {"ln_1.bias", "layer_norm1.bias"},
                                       {"ln_2.weight", "layer_norm2.weight"},
                                       {"ln_2.bias", "layer_norm2.bias"},
                                       {"mlp.c_fc.weight", "mlp.fc1.weight"},
                                       {"mlp.c_fc.bias", "mlp.fc1.bias"},
                                       {"mlp.c_proj.weight", "mlp.fc2.weight"},
                                       {"mlp.c_proj.bias", "mlp.fc2.bias"}}};
constexpr std::array<Pair, 2> kTowers{{{"transformer.resblocks.", "text_model.encoder.layers."},
                                       {"visual.transformer.resblocks.", "vision_model.encoder.layers."}}};
constexpr std::array<Pair, 2> kInProjection{{{"attn.in_proj_weight", "weight"}, {"attn.in_proj_bias", "bias"}}};
constexpr std::array<std::string_view, 3> kQkv{"q", "k", "v"};
constexpr std::array<std::string_view, 3> kSizes{"input_resolution", "context_length", "vocab_size"};

/// "visual.transformer.resblocks.11.ln_1.bias" -> its tower, "11", "ln_1.bias".
struct BlockKey {
  const Pair* tower = nullptr;
  std::string_view layer, rest;
};
std::optional<BlockKey> block_key(std::string_view key, bool is_openai) {
  for (const Pair& tower : kTowers) {
    const std::string_view prefix = is_openai ? tower.first : tower.second;
    if (!key.starts_with(prefix)) continue;
    const std::string_view inner = key.substr(prefix.size());
    const auto dot = inner.find_first_not_of("0123456789");
    if (dot == std::string_view::npos || dot == 0 || inner[dot] != '.') return std::nullopt;
    return BlockKey{&tower, inner.substr(0, dot), inner.substr(dot + 1)};
  }
  return std::nullopt;
}

/// A tensor of OpenAI's CLIP called `key` there, as the tensors of transformers' CLIPModel that it becomes, whose names
/// get `prefix` before them.
void map_openai(MappedSource& out, const Weight& weight, const std::string& key, const std::string& prefix) {
  if (std::find(kSizes.begin(), kSizes.end(), key) != kSizes.end()) return;
  if (const Pair* plain = find_first(kClip, key)) {
    const bool is_transposed = find_first(kTransposed, key) != nullptr;
    is_transposed ? out.transpose(weight, cat(prefix, plain->second)) : out.rename(weight, cat(prefix, plain->second));
    return;
  }
  const auto block = block_key(key, true);
  if (!block) out.refuse(weight.name, "it is no name of OpenAI's CLIP");
  const std::string layer = cat(prefix, block->tower->second, block->layer, ".");
  if (const Pair* plain = find_first(kBlock, block->rest)) {
    out.rename(weight, cat(layer, plain->second));
  } else if (const Pair* joined = find_first(kInProjection, block->rest)) {
    for (std::size_t i = 0; i < kQkv.size(); ++i)
      out.split(weight, cat(layer, "self_attn.", kQkv[i], "_proj.", joined->second), static_cast<std::int64_t>(i), 3);
  } else {
    out.refuse(weight.name, "it is no name of OpenAI's CLIP");
  }
}

void openai_to_hf(MappedSource& out) {
  for (const Weight& weight : out.source().tensors()) map_openai(out, weight, weight.name, "");
}

void hf_to_openai(MappedSource& out) {
  for (const Weight& weight : out.source().tensors()) {
    const std::string& key = weight.name;
    if (key.ends_with(".position_ids")) continue;
    if (const Pair* plain = find_second(kClip, key)) {
      const bool is_transposed = find_second(kTransposed, key) != nullptr;
      is_transposed ? out.transpose(weight, std::string(plain->first)) : out.rename(weight, std::string(plain->first));
      continue;
    }
    const auto block = block_key(key, false);
    if (!block) out.refuse(key, "it is no name of transformers' CLIPModel");
    const std::string layer = cat(block->tower->first, block->layer, ".");
    if (const Pair* plain = find_second(kBlock, block->rest)) {
      out.rename(weight, cat(layer, plain->first));
      continue;
    }
    const Pair* joined = nullptr;
    for (const Pair& pair : kInProjection)
      for (const std::string_view part : kQkv)
        if (block->rest == cat("self_attn.", part, "_proj.", pair.second)) joined = &pair;
    if (joined == nullptr) out.refuse(key, "it is no name of transformers' CLIPModel");
    if (!block->rest.starts_with("self_attn.q")) continue;  // k and v come with q
    std::vector<const Weight*> parts;
    for (const std::string_view part : kQkv) {
      const std::string name = cat(block->tower->second, block->layer, ".self_attn.", part, "_proj.", joined->second);
      const Weight* found = out.source().find(name);
      if (found == nullptr) out.refuse(name, "expected beside its q_proj, found nowhere");
      parts.push_back(found);
    }
    out.join(parts, cat(layer, joined->first));
  }
}

// ---- the VAE's attention: diffusers before 0.13 (first), after (second)
// ----------------------------------------------

constexpr std::array<Pair, 4> kAttention{
    {{".query.", ".to_q."}, {".key.", ".to_k."}, {".value.", ".to_v."}, {".proj_attn.", ".to_out.0."}}};

void rename_attention(MappedSource& out, bool to_new) {
  for (const Weight& weight : out.source().tensors()) {
    std::string name = weight.name;
    if (const auto attention = name.find(".attentions."); attention != std::string::npos) {
      for (const Pair& pair : kAttention) {
        const std::string_view from = to_new ? pair.first : pair.second, to = to_new ? pair.second : pair.first;
        const auto at = name.find(from, attention);
        if (at == std::string::npos) continue;
        name.replace(at, from.size(), to);
        break;
      }
    }
    out.rename(weight, std::move(name));
  }
}

// ---- CLIPSeg: its repository (first), transformers (second) ---------------------------------------------------------

constexpr std::array<Pair, 3> kSegmentHead{
    {{"film_mul.", "film_mul."}, {"film_add.", "film_add."}, {"trans_conv.", "transposed_convolution."}}};
constexpr std::array<Pair, 5> kSegmentBlock{{{"self_attn.out_proj.", "self_attn.out_proj."},
                                             {"linear1.", "mlp.fc1."},
                                             {"linear2.", "mlp.fc2."},
                                             {"norm1.", "layer_norm1."},
                                             {"norm2.", "layer_norm2."}}};
constexpr std::array<Pair, 2> kSegmentInProjection{
    {{"self_attn.in_proj_weight", "weight"}, {"self_attn.in_proj_bias", "bias"}}};

const Pair* find_start(std::span<const Pair> pairs, std::string_view name) {
  const auto found = std::find_if(pairs.begin(), pairs.end(), [&](const Pair& p) { return name.starts_with(p.first); });
  return found == pairs.end() ? nullptr : &*found;
}

/// The decoder's tensors under "decoder.", CLIP's (where the file has them) under "clip.".
void clipseg_to_hf(MappedSource& out) {
  constexpr std::string_view kBlocks = "blocks.", kReduces = "reduces.", kWholeClip = "clip_model.";
  for (const Weight& weight : out.source().tensors()) {
    const std::string& key = weight.name;
    // The image tower a second time, and a layer of the base class that is never used.
    if (key.starts_with("model.") || key == "reduce.weight" || key == "reduce.bias") continue;
    if (key.starts_with(kWholeClip)) {
      map_openai(out, weight, key.substr(kWholeClip.size()), "clip.");
    } else if (key.starts_with(kReduces)) {
      out.rename(weight, "decoder." + key);
    } else if (const Pair* head = find_start(kSegmentHead, key)) {
      out.rename(weight, cat("decoder.", head->second, key.substr(head->first.size())));
    } else if (key.starts_with(kBlocks) && key.find('.', kBlocks.size()) != std::string::npos) {
      const std::size_t dot = key.find('.', kBlocks.size());
      const std::string layer = cat("decoder.layers.", key.substr(kBlocks.size(), dot + 1 - kBlocks.size()));
      const std::string rest = key.substr(dot + 1);
      if (const Pair* joined = find_first(kSegmentInProjection, rest)) {
        for (std::size_t i = 0; i < kQkv.size(); ++i)
          out.split(weight, cat(layer, "self_attn.", kQkv[i], "_proj.", joined->second), static_cast<std::int64_t>(i),
                    3);
      } else if (const Pair* plain = find_start(kSegmentBlock, rest)) {
        out.rename(weight, cat(layer, plain->second, rest.substr(plain->first.size())));
      } else {
        out.refuse(key, "it is no name of CLIPSeg");
      }
    } else {
      out.refuse(key, "it is no name of CLIPSeg");
    }
  }
}

}  // namespace

const std::vector<KeyMapInfo>& key_maps() {
  static const std::vector<KeyMapInfo> kMaps{
      {"clip-openai-to-hf", "OpenAI's CLIP to transformers' names (in_proj split, projections transposed)"},
      {"clip-hf-to-openai", "transformers' CLIP to OpenAI's names"},
      {"clipseg-to-hf", "CLIPSeg's own files, with or without its CLIP, to transformers' names"},
      {"vae-old-to-new", "the VAE's attention: names of diffusers before 0.13 to to_q, to_k, to_v, to_out.0"},
      {"vae-new-to-old", "the same, back"}};
  return kMaps;
}

std::unique_ptr<WeightSource> map_keys(std::shared_ptr<const WeightSource> source, const std::string& map) {
  auto out = std::make_unique<MappedSource>(std::move(source), map);
  if (map == "clip-openai-to-hf") {
    openai_to_hf(*out);
  } else if (map == "clip-hf-to-openai") {
    hf_to_openai(*out);
  } else if (map == "clipseg-to-hf") {
    clipseg_to_hf(*out);
  } else if (map == "vae-old-to-new" || map == "vae-new-to-old") {
    rename_attention(*out, map == "vae-old-to-new");
  } else {
    std::vector<std::string> names;
    for (const KeyMapInfo& info : key_maps()) names.push_back(info.name);
    const std::string nearest = nearest_word(map, names);
    fail(ErrorKind::Config,
         {"there is no such map of names", map, nearest.empty() ? "" : cat("the nearest is '", nearest, "'"),
          "divergen convert --help lists the maps"});
  }
  return out;
}

}  // namespace divergen::weights
