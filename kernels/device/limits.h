// The most that kernels take; kernels/limits.py has the same for the side that chooses them.
#pragma once

namespace meshwright {

constexpr int kMostExperts = 512;
constexpr int kMostChosen = 32;      // experts of a token
constexpr int kMostGroups = 32;      // of experts, from which routers choose first
constexpr int kMostSegments = 1024;  // pairs of source rank and expert

}  // namespace meshwright
