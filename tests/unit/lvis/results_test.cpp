// Results files that are wrong, or made to harm: refused with image, category and field; in any number of pieces.

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "base/rng.hpp"
#include "lvis/evaluator.hpp"

namespace divergen::lvis {
namespace {

Dataset small_truth() {
  return parse_dataset(R"({"categories":[{"id":2,"frequency":"r"},{"id":4,"frequency":"f"}],
    "images":[{"id":5,"height":10,"width":12,"neg_category_ids":[4],"not_exhaustive_category_ids":[]},
              {"id":6,"height":10,"width":12,"neg_category_ids":[],"not_exhaustive_category_ids":[]}],
    "annotations":[{"id":1,"image_id":5,"category_id":2,"bbox":[1,1,4,4],"area":16,
                    "segmentation":[[1,1,5,1,5,5,1,5]]}]})",
                       "gt.json");
}

void expect_refusal(const std::string& results, const std::vector<std::string>& words, IouType type = IouType::Box,
                    Protocol protocol = Protocol::Lvis) {
  const Dataset truth = small_truth();
  for (const unsigned threads : {1U, 2U}) {
    try {
      evaluate_text(truth, results, "dt.json", {type, protocol, threads});
      ADD_FAILURE() << "taken: " << results;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Data);
      for (const std::string& word : words)
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what() << "\n lacks: " << word;
    }
  }
}

std::string entry(const std::string& rest) {
  return cat(R"([{"image_id":5,"category_id":2,"score":0.5,"bbox":[1,1,4,4]},{"image_id":5,"category_id":2,)", rest,
             "}]");
}

}  // namespace

TEST(results, NamesImageCategoryAndField) {
  expect_refusal(entry(R"("score":0.5,"bbox":[1,2,3])"),
                 {"dt.json", "entry 1", "image 5", "category 2", "'bbox'", "four numbers"});
  expect_refusal(entry(R"("score":0.5,"bbox":[1,2,3,4,5])"), {"'bbox'", "four numbers"});
  expect_refusal(entry(R"("score":0.5)"), {"entry 1", "'bbox'", "missing"});
  expect_refusal(entry(R"("score":"high","bbox":[1,2,3,4])"), {"entry 1", "'score'", "not a number"});
  expect_refusal(entry(R"("bbox":[1,2,3,4])"), {"entry 1", "'score'", "missing"});
  for (const char* value : {"NaN", "Infinity", "-Infinity"})
    expect_refusal(entry(cat("\"score\":", value, ",\"bbox\":[1,2,3,4]")), {"entry 1", "'score'", "not finite"});
  expect_refusal(entry(R"("score":0.5,"bbox":[1,2,NaN,4])"), {"entry 1", "'bbox'", "not a number"});
  expect_refusal(R"([{"image_id":99,"category_id":2,"score":0.5,"bbox":[1,1,4,4]}])",
                 {"entry 0", "image 99", "'image_id'", "no such image"});
  expect_refusal(R"([{"image_id":"5","category_id":2,"score":0.5,"bbox":[1,1,4,4]}])", {"entry 0", "'image_id'"});
  expect_refusal(R"([{"image_id":5,"score":0.5,"bbox":[1,1,4,4]}])",
                 {"entry 0", "image 5", "'category_id'", "missing"});
  expect_refusal("[3]", {"entry 0", "not an object"});
  expect_refusal("{}", {"not a list"});
  expect_refusal("", {"not a list"});
  expect_refusal("[]", {"no detection"});
  expect_refusal("[]", {"no detection"}, IouType::Box, Protocol::Coco);
  expect_refusal(entry(R"("score":0.5,"bbox":[1,2,3,4])") + "x", {"something follows"});
}

TEST(results, CocosRulesNameThemToo) {
  const auto refused = [](const std::string& results, const std::vector<std::string>& words) {
    for (const IouType type : {IouType::Box, IouType::Mask}) expect_refusal(results, words, type, Protocol::Coco);
  };
  refused(entry(R"("score":0.5,"bbox":[1,2,3])"), {"dt.json", "entry 1", "image 5", "category 2", "'bbox'", "four"});
  refused(entry(R"("score":0.5)"), {"entry 1", "image 5", "category 2", "'bbox'", "missing"});
  refused(entry(R"("score":"high","bbox":[1,2,3,4])"), {"entry 1", "image 5", "category 2", "'score'"});
  refused(entry(R"("bbox":[1,2,3,4])"), {"entry 1", "'score'", "missing"});
  for (const char* value : {"NaN", "Infinity", "-Infinity"})
    refused(entry(cat("\"score\":", value, ",\"bbox\":[1,2,3,4]")), {"entry 1", "image 5", "'score'", "not finite"});
  refused(R"([{"image_id":99,"category_id":2,"score":0.5,"bbox":[1,1,4,4]}])",
          {"entry 0", "image 99", "'image_id'", "no such image"});
  refused(R"([{"image_id":5,"score":0.5,"bbox":[1,1,4,4]}])", {"entry 0", "image 5", "'category_id'", "missing"});
}

TEST(results, HostileNumbersAreRefusedOrCountAsTheReferencesCountThem) {
  for (const Protocol protocol : {Protocol::Lvis, Protocol::Coco}) {
    for (const char* id : {"1e30", "5.5", "-5", "99999999999999999999999", "null", "[5]"})
      expect_refusal(cat(R"([{"category_id":2,"score":0.5,"bbox":[1,1,4,4],"image_id":)", id, "}]"),
                     {"entry 0", "category 2", "'image_id'"}, IouType::Box, protocol);
    for (const char* id : {"1e30", "2.5", "\"2\""})
      expect_refusal(cat(R"([{"image_id":5,"score":0.5,"bbox":[1,1,4,4],"category_id":)", id, "}]"),
                     {"entry 0", "image 5", "'category_id'"}, IouType::Box, protocol);
    expect_refusal(entry(R"("score":0.5,"bbox":[1,2,3,1e999])"), {"entry 1", "'bbox'", "too large"}, IouType::Box,
                   protocol);
    expect_refusal(entry(R"("score":1e999,"bbox":[1,2,3,4])"), {"entry 1", "'score'", "too large"}, IouType::Box,
                   protocol);

    // A category that is not in the set is passed over; the same entry twice is one right and one wrong detection; a
    // box turned inside out has an area and no overlap; a side of zero has neither (LVIS drops it).
    const auto evaluated = [&](const std::string& others) {
      return evaluate_text(small_truth(),
                           cat(R"([{"image_id":5,"category_id":2,"score":0.5,"bbox":[1,1,4,4]})", others, "]"),
                           "dt.json", {IouType::Box, protocol, 2});
    };
    const Evaluation plain = evaluated("");
    const Evaluation unknown = evaluated(R"(,{"image_id":5,"category_id":77,"score":0.9,"bbox":[1,1,4,4]})");
    EXPECT_EQ(unknown.kept, plain.kept);
    EXPECT_EQ(unknown.precision(), plain.precision());
    const Evaluation twice = evaluated(R"(,{"image_id":5,"category_id":2,"score":0.5,"bbox":[1,1,4,4]})");
    EXPECT_EQ(twice.kept, plain.kept + 1);
    EXPECT_EQ(twice.recall(), plain.recall());
    const Evaluation turned = evaluated(R"(,{"image_id":5,"category_id":2,"score":0.9,"bbox":[5,5,-4,-4]})");
    EXPECT_EQ(turned.kept, plain.kept + 1);
    const char* recall = protocol == Protocol::Coco ? "AR@100" : "AR@300";
    EXPECT_EQ(turned.summary[recall], plain.summary[recall]);
    EXPECT_LT(turned.summary["AP"], plain.summary["AP"]);
    const Evaluation flat = evaluated(R"(,{"image_id":5,"category_id":2,"score":0.9,"bbox":[1,1,0,4]})");
    EXPECT_EQ(flat.kept, plain.kept + (protocol == Protocol::Coco ? 1 : 0));
  }
}

TEST(results, RefusesMasksThatAreNone) {
  const auto masks = [](const std::string& segmentation) {
    return cat(R"([{"image_id":5,"category_id":2,"score":0.5,"segmentation":)", segmentation, "}]");
  };
  const auto refused = [&](const std::string& segmentation, const std::string& why) {
    expect_refusal(masks(segmentation), {"entry 0", "image 5", "category 2", "'segmentation'", why}, IouType::Mask);
    expect_refusal(masks(segmentation), {"'segmentation'", why}, IouType::Mask, Protocol::Coco);
  };
  refused(R"({"size":[10,12]})", "no counts");
  refused(R"({"counts":"o"})", "no size");
  refused(R"({"size":[10],"counts":"o"})", "no size");
  refused(R"({"size":[12,10],"counts":"hS1"})", "the image 10 x 12");
  refused(R"({"size":[-10,-12],"counts":"o"})", "the image 10 x 12");
  refused(R"({"size":[10,12],"counts":"oooooooooooooooooo"})", "a character");
  refused(R"({"size":[10,12],"counts":"1111111"})", "sum to");
  refused(R"({"size":[10,12],"counts":[4294967295,4294967295]})", "sum to");
  refused(R"({"size":[10,12],"counts":[-5,125]})", "negative");
  refused(R"({"size":[10,12],"counts":[4294967296]})", "negative or huge");
  refused(R"({"size":[1000000000,1000000000],"counts":"o"})", "the image 10 x 12");
  refused(R"({"size":[10,12],"counts":7})", "neither text nor a list");
  refused(R"({"size":[10,12,1],"counts":"o"})", "no size");
  refused(R"([])", "no polygons");
  refused(R"([[1,2,3]])", "a polygon has 3 numbers");
  refused(R"([[1,2,3,"4",5,6]])", "not a number");
  refused(R"([[1,2,3,1e200,5,6]])", "coordinate");
  refused(R"("text")", "neither a mask nor polygons");
}

TEST(results, TakesAMissingScoreWhereLvisApiNeverReadsIt) {
  // Category 4 was not looked for in image 6: the detection is dropped before its score matters.
  const auto result = evaluate_text(small_truth(),
                                    R"([{"image_id":5,"category_id":2,"score":0.5,"bbox":[1,1,4,4]},
                                        {"image_id":6,"category_id":4,"bbox":[1,1,4,4]}])",
                                    "dt.json", {});
  EXPECT_EQ(result.detections, 2);
  EXPECT_EQ(result.kept, 1);
}

TEST(results, ErrorsAreTheSameInAnyNumberOfPieces) {
  std::string good;
  for (int i = 0; i < 20000; ++i)
    good += cat(i > 0 ? "," : "", R"({"image_id":5,"category_id":2,"score":0.5,"bbox":[1,1,4,)", i % 7, "]}");
  for (const int bad : {0, 9999, 19999}) {
    std::size_t at = 0;
    for (int i = 0; i < bad; ++i) at = good.find("},{", at) + 2;
    std::string broken = good;
    broken.replace(broken.find("0.5", at), 3, "0,5");
    std::string message;
    for (const unsigned threads : {1U, 2U, 4U}) {
      try {
        evaluate_text(small_truth(), "[" + broken + "]", "dt.json", {IouType::Box, Protocol::Lvis, threads});
        ADD_FAILURE();
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find(cat("entry ", bad, ",")), std::string::npos) << error.what();
        if (message.empty()) message = error.what();
        EXPECT_EQ(message, error.what());
      }
    }
  }
}

TEST(results, TheOrderOfTheFileDecidesTiesInAnyNumberOfPieces) {
  Rng rng(3);
  std::string text = "[";
  for (int i = 0; i < 30000; ++i)
    text += cat(i > 0 ? "," : "", R"({"image_id":)", 5 + rng.below(2), R"(,"category_id":)", 2 + 2 * rng.below(2),
                R"(,"score":0.)", rng.below(4), R"(,"bbox":[)", rng.below(3), ",", rng.below(3), ",", 3 + rng.below(4),
                ",4]}");
  text += "]";
  const Dataset truth = small_truth();
  for (const Protocol protocol : {Protocol::Lvis, Protocol::Coco}) {
    const Evaluation one = evaluate_text(truth, text, "dt.json", {IouType::Box, protocol, 1});
    for (const unsigned threads : {2U, 5U}) {
      const Evaluation other = evaluate_text(truth, text, "dt.json", {IouType::Box, protocol, threads});
      EXPECT_EQ(one.precision(), other.precision());
      EXPECT_EQ(one.summary.values, other.summary.values);
    }
  }
}

TEST(report, HasATableAndALineForEachCategory) {
  const Dataset truth = small_truth();
  const std::string dt = R"([{"image_id":5,"category_id":2,"score":0.5,"bbox":[1,1,4,4]}])";
  const Evaluation lvis = evaluate_text(truth, dt, "dt.json", {}),
                   coco = evaluate_text(truth, dt, "dt.json", {IouType::Box, Protocol::Coco});
  EXPECT_NE(
      summary_table(lvis).find(" Average Precision  (AP) @[ IoU=0.50:0.95 | area=     r | maxDets=300 catIds=all] ="),
      0U);
  EXPECT_NE(summary_table(lvis).find("catIds=  r] = 1.000"), std::string::npos) << summary_table(lvis);
  EXPECT_NE(summary_table(coco).find("maxDets=100 ] = 1.000"), std::string::npos) << summary_table(coco);
  EXPECT_EQ(to_csv(lvis, truth),
            "id,name,frequency,AP,AP50,AP75,APs,APm,APl,AR,truths,detections\n"
            "2,,r,0.9999999999999998,0.9999999999999999,0.9999999999999999,0.9999999999999998,-1,-1,1,1,1\n4,,f,-1,-1,-"
            "1,-1,-1,-1,-1,0,0\n");
}

}  // namespace divergen::lvis
