#include "nn/module.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace divergen::nn {
namespace {

struct Leaf : Module {
  at::Tensor weight, count;
  Leaf() {
    buffer("count", count, {}, at::kLong);
    parameter("weight", weight, {2, 3});
  }
};

struct Tree : Module {
  List<Leaf> list;
  Leaf head;
  Tree() {
    child("list", list);
    list.add();
    list.skip();
    list.add();
    child("head", head);
  }
};

}  // namespace

TEST(Module, NamesTensorsInStateDictOrder) {
  Tree tree;
  std::vector<std::string> names;

  for (const auto& entry : tree.named_tensors()) names.push_back(entry.name);

  EXPECT_EQ(names, (std::vector<std::string>{"list.0.weight", "list.0.count", "list.2.weight", "list.2.count",
                                             "head.weight", "head.count"}));
}

TEST(Module, OnMetaDeviceHasShapesWithoutMemory) {
  NewTensors scope(at::TensorOptions().device(at::kMeta));
  Tree tree;

  EXPECT_TRUE(tree.head.weight.is_meta());
  EXPECT_EQ(tree.count_parameters(), 18);
}

TEST(Module, ConvertsFloatsAndKeepsIntegers) {
  Tree tree;

  tree.to(at::TensorOptions().dtype(at::kHalf));

  EXPECT_EQ(tree.head.weight.scalar_type(), at::kHalf);
  EXPECT_EQ(tree.head.count.scalar_type(), at::kLong);
}

}  // namespace divergen::nn
