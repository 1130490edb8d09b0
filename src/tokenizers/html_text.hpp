#pragma once
// Text out of HTML, as Python's html module and Beautiful Soup's "html.parser" give it.

#include "tokenizers/unicode.hpp"

namespace divergen::tokenizers {

/// html.unescape: named (HTML 5) and numeric character references, also without their ";".
UnicodeString html_unescape(const UnicodeString& text);

/// The character of a named reference, for instance of "amp;"; nullptr when there is none.
const UnicodeString* html_entity(const std::string& name);
/// All names that end in ";", with their characters.
void for_each_html_entity(const std::function<void(const std::string& name, const UnicodeString& text)>& visit);

/// BeautifulSoup(text, "html.parser").text: what is between tags, without comments, declarations, scripts, style
/// sheets, templates and ruby annotations. Markup that the parser refuses (a marked section of an unknown kind, on
/// which Python raises) is returned as it is.
UnicodeString html_to_text(const UnicodeString& text);

}  // namespace divergen::tokenizers
