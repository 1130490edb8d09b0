#include "models/diffusion/unet_config.hpp"

#include <algorithm>

namespace divergen::models {
namespace {

struct BlockNames {
  UnetBlock block;
  const char *down, *up;
};
constexpr BlockNames kBlocks[] = {
    {UnetBlock::Plain, "DownBlock2D", "UpBlock2D"},
    {UnetBlock::CrossAttention, "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"},
    {UnetBlock::Resnet, "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"},
    {UnetBlock::SimpleCrossAttention, "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"}};
constexpr const char* kMid = "UNetMidBlock2DCrossAttn";
constexpr const char* kSimpleMid = "UNetMidBlock2DSimpleCrossAttn";
/// Groups of the norm of the text in SimpleCrossAttention: fixed in diffusers' Attention.
constexpr std::int64_t kTextGroups = 32;

std::vector<UnetBlock> blocks_of(const ModelConfig& config, const std::string& key, const char* BlockNames::*name) {
  std::vector<UnetBlock> out;
  for (const auto& type : config.get<std::vector<std::string>>(key)) {
    const auto found = std::find_if(std::begin(kBlocks), std::end(kBlocks),
                                    [&](const BlockNames& names) { return type == names.*name; });
    if (found == std::end(kBlocks)) config.refuse(key, cat("'", type, "' is not a block of these models"));
    out.push_back(found->block);
  }
  return out;
}

std::vector<std::string> names_of(const std::vector<UnetBlock>& blocks, const char* BlockNames::*name) {
  std::vector<std::string> out;
  for (const UnetBlock block : blocks) out.emplace_back(kBlocks[static_cast<std::size_t>(block)].*name);
  return out;
}

Act act_of(const ModelConfig& config, const std::string& key, const std::string& name) {
  if (name == "silu" || name == "swish") return Act::Silu;
  if (name == "gelu") return Act::Gelu;
  config.refuse(key, cat("'", name, "' is neither silu nor gelu"));
}

const char* name_of(Act act) { return act == Act::Silu ? "silu" : "gelu"; }

bool has_cross_attention(UnetBlock block) {
  return block == UnetBlock::CrossAttention || block == UnetBlock::SimpleCrossAttention;
}

/// Whether norms and heads divide the widths, before a module is made that could not compute.
void check_widths(const UnetConfig& c, const ModelConfig& config) {
  if (c.levels() == 0 || c.down_blocks.size() != c.levels() || c.up_blocks.size() != c.levels() ||
      c.layers_per_block.size() != c.levels())
    config.refuse("block_out_channels", "its length differs from that of the block types or of layers_per_block");
  for (const auto layers : c.layers_per_block)
    if (layers < 1) config.refuse("layers_per_block", "there must be at least one");
  for (std::size_t i = 0; i < c.levels(); ++i) {
    const auto width = c.block_out_channels[i];
    if (width <= 0 || width % c.norm_groups != 0)
      config.refuse("block_out_channels", "norm_num_groups must divide each of them");
    const bool attends = has_cross_attention(c.down_blocks[i]) ||
                         has_cross_attention(c.up_blocks[c.levels() - 1 - i]) || i + 1 == c.levels();
    if (attends && width % c.attention_head_dim != 0)
      config.refuse("block_out_channels", "attention_head_dim must divide those with attention");
  }
  if (c.cross_attention_group_norm && c.cross_attention_dim % kTextGroups != 0)
    config.refuse("cross_attention_dim", cat("it is not a multiple of ", kTextGroups, ", the groups of its norm"));
  if (c.text_addition && c.text_features() % c.addition_heads != 0)
    config.refuse("addition_embed_type_num_heads", "it does not divide the width of the text states");
}

void read_embeddings(UnetConfig& c, const ModelConfig& config) {
  if (config.has("time_embedding_dim")) c.time_embedding_dim = config.get<std::int64_t>("time_embedding_dim");
  if (config.has("time_embedding_act_fn"))
    c.time_embedding_act = act_of(config, "time_embedding_act_fn", config.get<std::string>("time_embedding_act_fn"));
  if (config.has("encoder_hid_dim")) c.encoder_hid_dim = config.get<std::int64_t>("encoder_hid_dim");
  config.require<std::string>("encoder_hid_dim_type", "text_proj");
  config.require<std::string>("addition_embed_type", "text");
  c.text_addition = config.has("addition_embed_type");
  c.addition_heads = config.get("addition_embed_type_num_heads", c.addition_heads);
  config.require<std::string>("class_embed_type", "timestep");
  c.class_timestep = config.has("class_embed_type");
  config.require("class_embeddings_concat", false);
  config.require<std::string>("time_embedding_type", "positional");
  for (const char* key : {"timestep_post_act", "num_class_embeds", "time_cond_proj_dim"})
    if (config.has(key)) config.refuse(key, "it is not supported");
}

}  // namespace

UnetConfig UnetConfig::from(const ModelConfig& config) {
  UnetConfig c;
  c.sample_size = config.get("sample_size", c.sample_size);
  c.in_channels = config.get("in_channels", c.in_channels);
  c.out_channels = config.get("out_channels", c.out_channels);
  c.block_out_channels = config.get<std::vector<std::int64_t>>("block_out_channels");
  c.down_blocks = blocks_of(config, "down_block_types", &BlockNames::down);
  c.up_blocks = blocks_of(config, "up_block_types", &BlockNames::up);
  const auto mid = config.get<std::string>("mid_block_type", kMid);
  if (mid != kMid && mid != kSimpleMid)
    config.refuse("mid_block_type", cat("'", mid, "' is not a block of these models"));
  c.mid_block = mid == kMid ? UnetBlock::CrossAttention : UnetBlock::SimpleCrossAttention;
  if (config.has("layers_per_block") && config.json()["layers_per_block"].is_array())
    c.layers_per_block = config.get<std::vector<std::int64_t>>("layers_per_block");
  else c.layers_per_block.assign(c.block_out_channels.size(), config.get<std::int64_t>("layers_per_block", 2));
  c.norm_groups = config.get("norm_num_groups", c.norm_groups);
  c.norm_eps = config.get("norm_eps", c.norm_eps);
  c.cross_attention_dim = config.get("cross_attention_dim", c.cross_attention_dim);
  c.attention_head_dim = config.get("attention_head_dim", c.attention_head_dim);
  c.act = act_of(config, "act_fn", config.get<std::string>("act_fn", "silu"));
  const auto shift = config.get<std::string>("resnet_time_scale_shift", "default");
  if (shift != "default" && shift != "scale_shift") config.refuse("resnet_time_scale_shift", "it is not supported");
  c.scale_shift = shift == "scale_shift";
  config.require<std::string>("cross_attention_norm", "group_norm");
  c.cross_attention_group_norm = config.has("cross_attention_norm");
  c.skip_time_act = config.get("resnet_skip_time_act", false);
  c.resnet_out_scale = config.get("resnet_out_scale_factor", 1.0);
  c.mid_block_scale = config.get("mid_block_scale_factor", 1.0);
  read_embeddings(c, config);
  for (const char* key : {"center_input_sample", "use_linear_projection", "dual_cross_attention",
                          "only_cross_attention", "mid_block_only_cross_attention"})
    config.require(key, false);
  config.require("flip_sin_to_cos", true);
  for (const auto& [key, value] : {std::pair{"freq_shift", 0},
                                   {"downsample_padding", 1},
                                   {"conv_in_kernel", 3},
                                   {"conv_out_kernel", 3},
                                   {"transformer_layers_per_block", 1}})
    config.require(key, value);
  check_widths(c, config);
  return c;
}

nlohmann::json UnetConfig::to_json() const {
  const auto optional = [](const auto& value) { return value ? nlohmann::json(*value) : nlohmann::json(nullptr); };
  nlohmann::json json{{"_class_name", "UNet2DConditionModel"},
                      {"act_fn", name_of(act)},
                      {"attention_head_dim", attention_head_dim},
                      {"block_out_channels", block_out_channels},
                      {"center_input_sample", false},
                      {"cross_attention_dim", cross_attention_dim},
                      {"down_block_types", names_of(down_blocks, &BlockNames::down)},
                      {"downsample_padding", 1},
                      {"flip_sin_to_cos", true},
                      {"freq_shift", 0},
                      {"in_channels", in_channels},
                      {"layers_per_block", layers_per_block},
                      {"mid_block_scale_factor", mid_block_scale},
                      {"norm_eps", norm_eps},
                      {"norm_num_groups", norm_groups},
                      {"out_channels", out_channels},
                      {"sample_size", sample_size},
                      {"up_block_types", names_of(up_blocks, &BlockNames::up)}};
  if (std::adjacent_find(layers_per_block.begin(), layers_per_block.end(), std::not_equal_to<>()) ==
      layers_per_block.end())
    json["layers_per_block"] = layers_per_block.front();  // as the published files write it
  if (mid_block == UnetBlock::CrossAttention) return json;
  // What DeepFloyd-IF sets beyond Stable Diffusion.
  json["mid_block_type"] = kSimpleMid;
  json["resnet_time_scale_shift"] = scale_shift ? "scale_shift" : "default";
  json["cross_attention_norm"] = cross_attention_group_norm ? nlohmann::json("group_norm") : nlohmann::json(nullptr);
  json["resnet_skip_time_act"] = skip_time_act;
  json["resnet_out_scale_factor"] = resnet_out_scale;
  json["time_embedding_dim"] = optional(time_embedding_dim);
  json["time_embedding_act_fn"] =
      time_embedding_act ? nlohmann::json(name_of(*time_embedding_act)) : nlohmann::json(nullptr);
  json["encoder_hid_dim"] = optional(encoder_hid_dim);
  json["encoder_hid_dim_type"] = encoder_hid_dim ? nlohmann::json("text_proj") : nlohmann::json(nullptr);
  json["addition_embed_type"] = text_addition ? nlohmann::json("text") : nlohmann::json(nullptr);
  json["addition_embed_type_num_heads"] = addition_heads;
  json["class_embed_type"] = class_timestep ? nlohmann::json("timestep") : nlohmann::json(nullptr);
  return json;
}

ResnetOptions UnetConfig::resnet(UnetBlock block, bool is_mid) const {
  ResnetOptions o{.time_features = time_features(), .groups = norm_groups, .eps = norm_eps, .act = act};
  o.scale_shift = scale_shift;
  // diffusers hands these two to the blocks of DeepFloyd-IF only.
  const bool is_if = block == UnetBlock::Resnet || block == UnetBlock::SimpleCrossAttention;
  o.skip_time_act = is_if && skip_time_act;
  o.output_scale = is_mid ? mid_block_scale : is_if ? resnet_out_scale : 1.0;
  return o;
}

}  // namespace divergen::models
