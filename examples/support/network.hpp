// SPDX-License-Identifier: Apache-2.0
#pragma once

/// A small network of two layers, its gradient, and its training: everything but the communication.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "digits.hpp"

namespace digits {

/// 64 pixels, 64 hidden units (ReLU), 10 classes (softmax). All weights lie in one array: what ranks fold is one
/// array too.
class Network {
 public:
  static constexpr std::size_t hidden = 64;
  static constexpr std::size_t weight_count = hidden * (pixels + 1) + classes * (hidden + 1);
  /// The gradient of each weight, and the loss, folded in the same call.
  static constexpr std::size_t gradient_count = weight_count + 1;

  explicit Network(std::uint64_t seed) : weights_(weight_count, 0.0F) {
    Random random(seed);
    const auto spread = [&](std::span<float> weights, std::size_t inputs) {
      const float bound = std::sqrt(6.0F / static_cast<float>(inputs));
      for (float& w : weights) w = bound * random.signed_unit();
    };
    spread(std::span(weights_).subspan(first, hidden * pixels), pixels);
    spread(std::span(weights_).subspan(second, classes * hidden), hidden);
  }

  std::span<float> weights() { return weights_; }
  std::span<const float> weights() const { return weights_; }

  /// Adds the gradient of these images' cross-entropy, and the loss itself, to `gradient`. Never inlined: every
  /// caller runs the same instructions, so that equal inputs give equal bits.
  [[gnu::noinline]] void add_gradient(const std::vector<Image>& images, std::span<const std::uint32_t> chosen,
                                      std::span<float> gradient) const {
    for (const std::uint32_t index : chosen) {
      const Image& image = images[index];
      Activations a = forward(image);
      const float top = *std::max_element(a.scores.begin(), a.scores.end());
      float total = 0;
      for (float& s : a.scores) total += s = std::exp(s - top);
      for (float& s : a.scores) s /= total;
      gradient[weight_count] -= std::log(std::max(a.scores[image.label], 1e-30F));
      a.scores[image.label] -= 1.0F;  // now the gradient of the scores

      std::array<float, hidden> back{};
      for (std::size_t c = 0; c < classes; ++c) {
        const float* const weights = &weights_[second + c * hidden];
        float* const slope = &gradient[second + c * hidden];
        for (std::size_t h = 0; h < hidden; ++h) {
          slope[h] += a.scores[c] * a.hidden[h];
          back[h] += a.scores[c] * weights[h];
        }
        gradient[second_bias + c] += a.scores[c];
      }
      for (std::size_t h = 0; h < hidden; ++h) {
        if (a.hidden[h] <= 0.0F) continue;
        float* const slope = &gradient[first + h * pixels];
        for (std::size_t p = 0; p < pixels; ++p) slope[p] += back[h] * image.pixel[p];
        gradient[first_bias + h] += back[h];
      }
    }
  }

  /// How many of these images it reads rightly.
  int count_correct(std::span<const Image> images) const {
    int correct = 0;
    for (const Image& image : images) {
      const Activations a = forward(image);
      const auto best = std::max_element(a.scores.begin(), a.scores.end()) - a.scores.begin();
      if (best == static_cast<std::ptrdiff_t>(image.label)) ++correct;
    }
    return correct;
  }

 private:
  static constexpr std::size_t first = 0;
  static constexpr std::size_t first_bias = first + hidden * pixels;
  static constexpr std::size_t second = first_bias + hidden;
  static constexpr std::size_t second_bias = second + classes * hidden;

  struct Activations {
    std::array<float, Network::hidden> hidden;
    std::array<float, classes> scores;
  };

  Activations forward(const Image& image) const {
    Activations a;
    for (std::size_t h = 0; h < hidden; ++h) {
      const float* const weights = &weights_[first + h * pixels];
      a.hidden[h] =
          std::max(0.0F, std::inner_product(weights, weights + pixels, image.pixel.begin(), weights_[first_bias + h]));
    }
    for (std::size_t c = 0; c < classes; ++c) {
      const float* const weights = &weights_[second + c * hidden];
      a.scores[c] = std::inner_product(weights, weights + hidden, a.hidden.begin(), weights_[second_bias + c]);
    }
    return a;
  }

  std::vector<float> weights_;
};

struct Recipe {
  int epochs = 30;
  std::size_t batch = 64;
  float rate = 0.08F;
  float momentum = 0.9F;
  std::uint64_t seed = 20;
};

/// The part of `items` that belongs to shard `index` of `shards`.
template <class T>
std::span<T> shard(std::span<T> items, int index, int shards) {
  const auto at = [&](int i) { return items.size() * static_cast<std::size_t>(i) / static_cast<std::size_t>(shards); };
  return items.subspan(at(index), at(index + 1) - at(index));
}

/// Trains by stochastic gradient descent with momentum.
/// `fold(network, batch)` returns the gradient summed over the whole batch; `after_epoch(epoch, loss)` is told the
/// mean loss of an epoch's images.
template <class Fold, class AfterEpoch>
Network train(const std::vector<Image>& images, const Recipe& recipe, Fold&& fold, AfterEpoch&& after_epoch) {
  Network network(recipe.seed);
  std::vector<float> velocity(Network::weight_count, 0.0F);
  std::vector<std::uint32_t> order(images.size());
  std::iota(order.begin(), order.end(), 0U);
  Random random(recipe.seed + 1);
  for (int epoch = 1; epoch <= recipe.epochs; ++epoch) {
    random.shuffle(order);
    double loss = 0;
    for (std::size_t begin = 0; begin < order.size(); begin += recipe.batch) {
      const auto batch =
          std::span<const std::uint32_t>(order).subspan(begin, std::min(recipe.batch, order.size() - begin));
      const std::span<const float> gradient = fold(network, batch);
      const float scale = recipe.rate / static_cast<float>(batch.size());
      const std::span<float> weights = network.weights();
      for (std::size_t i = 0; i < weights.size(); ++i) {
        velocity[i] = recipe.momentum * velocity[i] - scale * gradient[i];
        weights[i] += velocity[i];
      }
      loss += gradient[Network::weight_count];
    }
    after_epoch(epoch, loss / static_cast<double>(order.size()));
  }
  return network;
}

}  // namespace digits
