#pragma once
// What the stages of the miniature DeepFloyd-IF learn from, and what they learn by.

#include "miniworld/pictures.hpp"
#include "models/diffusion/scheduler.hpp"
#include "tokenizers/t5_sentencepiece.hpp"

namespace divergen::stages {

/// Pictures of the named categories with their captions as T5 reads them; a pure function of (world, count, side,
/// seed).
struct IfPictures {
  static IfPictures render(const miniworld::World& world, const tokenizers::T5SentencePiece& tokenizer,
                           std::int64_t count, std::int64_t side, std::uint64_t seed);
  std::int64_t count() const { return pixels.size(0); }
  /// Rows as float in [-1, 1], [N, 3, side, side].
  at::Tensor images(const at::Tensor& rows) const;

  at::Tensor pixels;     // [count, 3, side, side] uint8
  at::Tensor ids, mask;  // [count, L] int64
};

/// Token ids and mask of one text, [1, L] each, by DeepFloyd-IF's text rule.
std::pair<at::Tensor, at::Tensor> if_tokens(const tokenizers::T5SentencePiece& tokenizer, const std::string& text);

/// The learning goal of a network that predicts noise and the place of the variance between its bounds: squared error
/// of the noise plus the variational bound of the variance in bits a dimension, with the mean held fixed (Nichol &
/// Dhariwal 2021, §3.1, L_hybrid). The squared error is weighted by min(SNR, snr_limit)/SNR (Hang et al. 2023).
class HybridLoss {
 public:
  HybridLoss(const models::NoiseSchedule& schedule, double snr_limit, double bound_weight);

  struct Terms {
    at::Tensor loss;        // scalar, with its graph
    at::Tensor mse, bound;  // detached means
  };
  /// output [N, 2C, H, W] at times t [N] of pictures x0 in [-1, 1] with this noise, both [N, C, H, W].
  Terms of(const at::Tensor& output, const at::Tensor& x0, const at::Tensor& noise, const at::Tensor& t) const;

 private:
  at::Tensor bound(const at::Tensor& error, const at::Tensor& place, const at::Tensor& x0, const at::Tensor& t) const;

  double bound_weight_;
  // Of every time, float32: weights of the squared error; log of the posterior's variance and of beta; what an error of
  // the noise does to the posterior's mean.
  at::Tensor weights_, log_posterior_, log_beta_, mean_per_error_;
};

/// The published scheduler configurations of DeepFloyd-IF (reference/generation.md §2).
nlohmann::json if_scheduler_json(int stage);
nlohmann::json if_noising_json();

}  // namespace divergen::stages
