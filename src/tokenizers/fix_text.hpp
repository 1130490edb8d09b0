#pragma once
// Repair of text that was decoded wrongly or carries typographic leftovers: what ftfy.fix_text does with its default
// settings (version 6.3.1, after which the rules and their names go). CLIP's and DeepFloyd-IF's text rules call it.

#include "tokenizers/unicode.hpp"

namespace divergen::tokenizers {

/// Line by line until nothing changes: HTML references (unless a "<" was seen), text in a wrong encoding (UTF-8 read as
/// any of ten single-byte encodings, also with lost or altered bytes), C1 controls, ligatures, widths, quotes, line
/// breaks, terminal escapes, control characters, NFC. Valid Unicode goes in and comes out, so that ftfy's repair of
/// surrogates has nothing to do here.
UnicodeString fix_text(const UnicodeString& text);

}  // namespace divergen::tokenizers
