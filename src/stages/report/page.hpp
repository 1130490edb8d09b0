#pragma once
// The frame of the page: style sheet, head, sections.

#include <string>
#include <vector>

namespace divergen::stages::report {

struct Section {
  std::string id, title, body;  // an empty body: the section is left out
};

/// `hero`: what stands above the sections. A whole HTML document without any reference to the outside.
std::string page(const std::string& title, const std::string& hero, const std::vector<Section>& sections,
                 const std::string& foot);

/// Pieces that several sections use.
std::string note(const std::string& escaped_html);  // a quiet remark
std::string figure(const std::string& drawing, const std::string& caption_html);
std::string swatch(const std::string& css, const std::string& words);  // an entry of a legend
std::string fold(const std::string& summary_html, const std::string& body, bool is_open);
/// Mark of a frequency group: "r" -> rare.
std::string frequency_badge(const std::string& frequency, bool is_extra);
std::string frequency_name(const std::string& frequency, bool is_extra);

/// A table; cells are HTML already. Columns from `first_number` on are numbers.
struct TableHtml {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;
  std::size_t first_number = 1;
  std::string str() const;
};

}  // namespace divergen::stages::report
