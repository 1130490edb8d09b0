// Repair of text and text out of HTML: each expected value is what ftfy 6.3.1 or Beautiful Soup 4.15 gave.

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "support/fixtures.hpp"
#include "tokenizers/fix_text.hpp"
#include "tokenizers/html_text.hpp"
#include "tokenizers/t5_sentencepiece.hpp"

namespace divergen::tokenizers {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

}  // namespace

TEST(fix_text, EqualsFtfy) {
  const Pairs pairs{
      {"doesn\303\242\342\202\254\342\204\242t", "doesn't"},
      {"\303\202\302\2435 and \303\203\302\251clair", "\302\2435 and \303\251clair"},
      {"\320\240\321\227\320\241\320\202\320\240\321\221\320\240\320\206\320\240\302\265\320\241\342\200\232 "
       "\303\220\302\274\303\220\302\270\303\221\342\202\254",
       "\320\277\321\200\320\270\320\262\320\265\321\202 \320\274\320\270\321\200"},
      {"voil\303\203 le travail", "voil\303\240 le travail"},
      {"\303\242\342\202\254\305\223 like this \303\242\342\202\254\357\277\275", "\042 like this \357\277\275"},
      {"P&EACUTE;REZ &amp; &notit;", "P\303\211REZ & &notit;"},
      {"a < b &amp; c", "a < b &amp; c"},
      {"LOUD\343\200\200\357\274\256\357\274\257\357\274\251\357\274\263\357\274\245 \357\254\202u\357\254\203est",
       "LOUD NOISE fluffiest"},
      {"\033[31mred\033[0m\007 \302\223q\302\224", "red \042q\042"},
      {"line\015\012next\342\200\250end", "line\012next\012end"},
      {"\303\203\302\257\303\202\302\273\303\202\302\277BOM", "BOM"},
      {"M\303\203\302\274ller na\303\257ve caf\303\251", "M\303\274ller na\303\257ve caf\303\251"},
      {"\303\220\305\270\303\221\342\202\254\303\220\302\270\303\220\302\262\303\220\302\265\303\221\342\200\232 "
       "\302\253x\302\273",
       "\320\237\321\200\320\270\320\262\320\265\321\202 \302\253x\302\273"},
  };
  for (const auto& [given, expected] : pairs) EXPECT_EQ(to_utf8(fix_text(from_utf8(given))), expected) << given;
}

TEST(html_text, EqualsBeautifulSoup) {
  const Pairs pairs{
      {"a <b>bold</b> move", "a bold move"},
      {"x<script>var a=\042<b>\042;</script>y", "xy"},
      {"<!-- c -->k<!doctype html>z", "kz"},
      {"<![CDATA[in]]> out", "in out"},
      {"3 < 5 and <3", "3 < 5 and <3"},
      {"<p>  </p>a<pre>  </pre>", " a  "},
      {"&eacute;&foo;&#150;&#x41z&a", "\303\251&foo\342\200\223Aza"},
      {"<a href=\042x>y\042 b='c'>l</a t>m</a", "lm</a"},
      {"<img src=a/>i</img><rt>r</rt>", "i"},
      {"unclosed <a href=\042", "unclosed <a href=\042"},
      {"&#; <b>x", "&#; x"},
  };
  for (const auto& [given, expected] : pairs) EXPECT_EQ(to_utf8(html_to_text(from_utf8(given))), expected) << given;
}

TEST(html_text, ReturnsWhatPythonRefuses) {
  const UnicodeString text = from_utf8("a <![nonsense[x]]> b");
  EXPECT_EQ(to_utf8(html_to_text(text)), to_utf8(text));
}

TEST(t5_sentencepiece, RefusesWhatIsNoModel) {
  const test::TemporaryFolder folder;
  EXPECT_THROW(T5SentencePiece(folder / "spiece.model"), Error);  // there is none
  write_file_atomic(folder / "spiece.model", "no model at all");
  EXPECT_THROW(T5SentencePiece(folder.path()), Error);
}

TEST(t5_sentencepiece, ReadsTheMiniatureModel) {
  const T5SentencePiece tokenizer(Path(DIVERGEN_SOURCE_DIR) / "data/mini/models/if/tokenizer");
  const auto encoded = tokenizer.encode_padded("a photo of a single strawberry");
  ASSERT_EQ(encoded.ids.size(), 77U);
  const auto end = std::find(encoded.ids.begin(), encoded.ids.end(), T5SentencePiece::kEnd);
  EXPECT_EQ(std::count(encoded.mask.begin(), encoded.mask.end(), 1), end - encoded.ids.begin() + 1);
  EXPECT_EQ(std::count(encoded.ids.begin(), end, T5SentencePiece::kUnknown), 0);
  std::string longest;
  for (int i = 0; i < 100; ++i) longest += "strawberry ";
  const auto cut = tokenizer.encode_padded(longest);
  EXPECT_EQ(cut.ids.back(), T5SentencePiece::kEnd);
  EXPECT_EQ(cut.mask.back(), 1);
}

}  // namespace divergen::tokenizers
