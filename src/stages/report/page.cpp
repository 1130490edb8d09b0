#include "stages/report/page.hpp"

#include "base/error.hpp"
#include "base/text.hpp"
#include "stages/report/style.hpp"

namespace divergen::stages::report {

std::string page(const std::string& title, const std::string& hero, const std::vector<Section>& sections,
                 const std::string& foot) {
  std::string links, bodies;
  for (const Section& s : sections) {
    if (s.body.empty()) continue;
    links += cat("<a href=\"#", s.id, "\">", html_escape(s.title), "</a>");
    bodies += cat("<section id=\"", s.id, "\">\n<h2>", html_escape(s.title), "</h2>\n", s.body, "\n</section>\n");
  }
  return cat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>",
      html_escape(title), "</title>\n<style>", kStyle, "</style>\n</head>\n<body>\n<main>\n", hero, "\n<nav>", links,
      "</nav>\n", bodies, "<footer>", foot, "</footer>\n</main>\n</body>\n</html>\n");
}

std::string note(const std::string& escaped_html) { return cat("<p class=\"note\">", escaped_html, "</p>\n"); }

std::string figure(const std::string& drawing, const std::string& caption_html) {
  return cat("<figure>", drawing, caption_html.empty() ? "" : cat("<figcaption>", caption_html, "</figcaption>"),
             "</figure>\n");
}

std::string swatch(const std::string& css, const std::string& words) {
  return cat(
      "<span class=\"swatch\"><svg viewBox=\"0 0 12 12\" width=\"12\" height=\"12\"><rect x=\"1\" y=\"1\" width=\"10\" "
      "height=\"10\" rx=\"2.5\" class=\"",
      css, "\"/></svg>", html_escape(words), "</span>");
}

std::string fold(const std::string& summary_html, const std::string& body, bool is_open) {
  return cat("<details", is_open ? " open" : "", "><summary>", summary_html, "</summary>\n", body, "</details>\n");
}

std::string frequency_name(const std::string& frequency, bool is_extra) {
  if (is_extra) return "extra";
  if (frequency == "r") return "rare";
  if (frequency == "c") return "common";
  return frequency == "f" ? "frequent" : "other";
}

std::string frequency_badge(const std::string& frequency, bool is_extra) {
  const std::string name = frequency_name(frequency, is_extra);
  return cat("<span class=\"badge ", name, "\">", name, "</span>");
}

std::string TableHtml::str() const {
  const auto cell = [&](const char* tag, const std::string& text, std::size_t column) {
    return cat("<", tag, column >= first_number ? " class=\"n\">" : ">", text, "</", tag, ">");
  };
  std::string out = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (std::size_t i = 0; i < head.size(); ++i) out += cell("th", head[i], i);
  out += "</tr></thead>\n<tbody>\n";
  for (const auto& row : rows) {
    out += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) out += cell("td", row[i], i);
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

}  // namespace divergen::stages::report
