#pragma once
// DeepFloyd-IF's text rules (reference/generation.md §1, §6): what happens to a prompt before T5 sees it.

#include <string>
#include <string_view>

namespace divergen::tokenizers {

/// Python's text.lower().strip(): what the generators of the paper do (clean_caption = False).
std::string if_plain_text(std::string_view text);

/// The cleaning of captions (clean_caption = True), once. The pipeline applies it twice: see if_caption().
std::string if_clean_caption_once(std::string_view text);

/// The text rule of one prompt: plain, or cleaned twice.
std::string if_caption(std::string_view text, bool clean);

}  // namespace divergen::tokenizers
