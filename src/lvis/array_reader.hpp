#pragma once
// A long JSON array of objects, read by several threads without a pass that looks for the boundaries.
//
// The text is cut into pieces of equal size. A thread guesses where the first element of its piece begins (after "},{")
// and reads from there to the first element of the next piece. Pieces are accepted in order: if the one before ended
// exactly where this one began, the guess was right (by induction from the first element, whose place is known);
// otherwise ("},{" stood inside a text or a nested list) the piece is read again from the right place. What is accepted
// is therefore what one thread would have read, errors included.
//
// A Piece holds what was read: `void element(Scanner&)` reads one element, `std::size_t size()` says how many were,
// `std::string where()` tells about the one that is being read (", image 5, field 'bbox'").

#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "lvis/json_scanner.hpp"
#include "lvis/parallel.hpp"
#include "lvis/text.hpp"

namespace divergen::lvis {

/// An element that cannot be read.
struct BadElement {
  std::size_t index = 0;
  std::string where, why;
};

template <class Piece, class Make, class Accept>
class ArrayReader {
 public:
  /// `first`: after the array's '['. `make()` gives an empty Piece (any thread); `accept(Piece)` takes pieces in order
  /// (one call at a time, any thread).
  ArrayReader(const Text& text, const char* first, unsigned threads, std::size_t piece_bytes, const Make& make,
              const Accept& accept)
      : text_(text), threads_(threads), piece_bytes_(piece_bytes), make_(make), accept_(accept) {
    Scanner scanner(first, text.end());
    is_empty_ = scanner.take(']');
    begin_ = expected_ = released_ = scanner.position();
    const auto bytes = static_cast<std::size_t>(text.end() - begin_);
    pieces_ = (bytes + piece_bytes - 1) / piece_bytes;
    slots_.resize(2 * threads + 2);
  }

  /// Where the text goes on after the array's ']'. Throws BadElement, and what make and accept throw.
  const char* run() {
    if (is_empty_) return begin_;
    on_threads(static_cast<unsigned>(std::min<std::size_t>(threads_, std::max<std::size_t>(1, pieces_))),
               [&](unsigned) { work(); });
    if (problem_) std::rethrow_exception(problem_);
    if (!is_over_) throw BadElement{count_, "", "the file ends within the list"};
    return expected_;
  }

 private:
  struct Slot {
    std::unique_ptr<Piece> piece;
    const char *start = nullptr, *stop = nullptr;
    bool is_ready = false, is_over = false, has_failed = false;
  };

  const char* limit(std::size_t k) const { return k + 1 >= pieces_ ? text_.end() : begin_ + (k + 1) * piece_bytes_; }

  /// The first "{" at or after the piece's begin that stands after "}" and a comma; null when there is none in it.
  const char* guess(std::size_t k) const {
    if (k == 0) return begin_;
    constexpr std::ptrdiff_t kBefore = 64;  // the comma may stand in the piece before
    const char *boundary = begin_ + k * piece_bytes_, *stop = limit(k);
    const char* at = boundary - std::min(kBefore, boundary - begin_);
    while ((at = static_cast<const char*>(std::memchr(at, '}', static_cast<std::size_t>(stop - at)))) != nullptr) {
      Scanner scanner(++at, stop);
      if (scanner.take(',') && scanner.peek() == '{' && scanner.position() >= boundary)
        return scanner.position() < stop ? scanner.position() : nullptr;
      if (at >= stop) return nullptr;
    }
    return nullptr;
  }

  /// Reads elements from slot.start to the first one that begins at or after `limit`. Throws what element() throws.
  void read(Slot& slot, const char* limit) const {
    Scanner scanner(slot.start, text_.end());
    while (true) {
      slot.piece->element(scanner);
      if (scanner.take(']')) {
        slot.is_over = true;
        break;
      }
      scanner.expect(',', "a comma or ] is missing after it");
      scanner.peek();
      if (scanner.position() >= limit) break;
    }
    slot.stop = scanner.position();
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      moved_.wait(lock, [&] { return is_done_ || claimed_ >= pieces_ || claimed_ < accepted_ + slots_.size(); });
      if (is_done_ || claimed_ >= pieces_) return;
      const std::size_t k = claimed_++;
      lock.unlock();
      Slot slot;
      try {
        slot.start = guess(k);
        if (slot.start != nullptr) {
          slot.piece = make_();
          read(slot, limit(k));
        }
      } catch (...) {
        slot.has_failed = true;  // of a wrong guess, or in earnest: accepting it will tell
      }
      slot.is_ready = true;
      lock.lock();
      slots_[k % slots_.size()] = std::move(slot);
      while (!is_done_ && accepted_ < pieces_ && slots_[accepted_ % slots_.size()].is_ready) settle();
      moved_.notify_all();
    }
  }

  /// With the lock held.
  void settle() {
    const char* stop = limit(accepted_);
    Slot slot = std::exchange(slots_[accepted_++ % slots_.size()], Slot());
    if (expected_ >= stop) return;  // the element before goes on beyond this piece
    try {
      if (slot.start != expected_ || slot.has_failed) {
        slot = Slot();
        slot.start = expected_;
        slot.piece = make_();
        read(slot, stop);
      }
      count_ += slot.piece->size();
      expected_ = slot.stop;
      is_over_ = slot.is_over;
      accept_(std::move(*slot.piece));
    } catch (const Malformed& malformed) {
      problem_ = std::make_exception_ptr(BadElement{count_ + slot.piece->size(), slot.piece->where(), malformed.why});
    } catch (...) {
      problem_ = std::current_exception();
    }
    is_done_ = is_over_ || problem_;
    text_.release(released_, expected_);
    released_ = expected_;
  }

  const Text& text_;
  unsigned threads_;
  std::size_t piece_bytes_, pieces_ = 0;
  const Make& make_;
  const Accept& accept_;
  bool is_empty_ = false;

  std::mutex mutex_;
  std::condition_variable moved_;
  const char *begin_ = nullptr, *expected_ = nullptr, *released_ = nullptr;
  std::vector<Slot> slots_;
  std::size_t claimed_ = 0, accepted_ = 0, count_ = 0;
  bool is_over_ = false, is_done_ = false;
  std::exception_ptr problem_;
};

template <class Piece, class Make, class Accept>
const char* read_array(const Text& text, const char* first, unsigned threads, const Make& make, const Accept& accept) {
  // Small enough that all threads have work and memory stays small, large enough that starting a piece costs nothing.
  const std::size_t bytes = std::clamp<std::size_t>(text.size() / (8 * threads), 64 << 10, 4 << 20);
  return ArrayReader<Piece, Make, Accept>(text, first, threads, bytes, make, accept).run();
}

}  // namespace divergen::lvis
