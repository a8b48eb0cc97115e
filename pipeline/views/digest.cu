// Computes xxh3_64 of a visit's pixels in parallel, exactly, so that the digests in existing caches stay valid.
//
// XXH3 of a long input keeps eight 64-bit sums. Within a block of 1,024 bytes it only adds to them, and the addends depend on the
// data alone, so ``sum_blocks`` sums all blocks at once. After each block it scrambles the sums. That chain is sequential, but
// short: ``chain`` takes one step per kilobyte, in eight threads per digest, because the eight sums are independent.

TABLE const u8 SECRET[192] = {  // of xxHash, kSecret
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb,
    0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb,
    0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31,
    0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc,
    0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e};

const u64 P32_1 = 0x9E3779B1u, P32_2 = 0x85EBCA77u, P32_3 = 0xC2B2AE3Du;
const u64 P64_1 = 0x9E3779B185EBCA87ull, P64_2 = 0xC2B2AE3D27D4EB4Full, P64_3 = 0x165667B19E3779F9ull;
const u64 P64_4 = 0x85EBCA77C2B2AE63ull, P64_5 = 0x27D4EB2F165667C5ull;

DEVICE u64 word(const u8* p) {
    u64 value = 0;
    for (int k = 0; k < 8; k++) value |= (u64)p[k] << 8 * k;
    return value;
}

// The addend of one stripe of 64 bytes to the sum ``lane``.
DEVICE u64 added(const u8* stripe, const u8* secret, int lane) {
    const u64 key = word(stripe + 8 * lane) ^ word(secret + 8 * lane);
    return word(stripe + 8 * (lane ^ 1)) + (key & 0xFFFFFFFFull) * (key >> 32);
}

DEVICE u64 block_sum(const u8* block, int stripes, int lane) {
    u64 total = 0;
    for (int s = 0; s < stripes; s++) total += added(block + 64 * s, SECRET + 8 * s, lane);
    return total;
}

DEVICE u64 first(int lane) {
    const u64 values[8] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};
    return values[lane];
}

DEVICE u64 folded(u64 a, u64 b) {  // the two halves of a 128-bit product
#ifdef __CUDACC__
    return (a * b) ^ __umul64hi(a, b);
#else
    const unsigned __int128 product = (unsigned __int128)a * b;
    return (u64)product ^ (u64)(product >> 64);
#endif
}

DEVICE u64 scrambled(u64 value, int lane) { return (value ^ (value >> 47) ^ word(SECRET + 128 + 8 * lane)) * P32_1; }

const int AHEAD = 32;

// One lane's sum at the end of ``bytes`` (more than 240) of data.
DEVICE u64 lane_of(const u8* data, i64 bytes, const u64* sums, int lane) {
    const i64 blocks = (bytes - 1) / 1024;
    u64 value = first(lane);
    i64 b = 0;
    for (; b + AHEAD <= blocks; b += AHEAD) {  // loading a sum takes longer than a step, so AHEAD loads are in flight at once
        u64 ahead[AHEAD];
        UNROLL for (int k = 0; k < AHEAD; k++) ahead[k] = sums[8 * (b + k) + lane];
        UNROLL for (int k = 0; k < AHEAD; k++) value = scrambled(value + ahead[k], lane);
    }
    for (; b < blocks; b++) value = scrambled(value + sums[8 * b + lane], lane);
    const int rest = (int)((bytes - 1 - 1024 * blocks) / 64);
    value += block_sum(data + 1024 * blocks, rest, lane);
    return value + added(data + bytes - 64, SECRET + 121, lane);
}

DEVICE u64 merged(const u64* lanes, i64 bytes) {
    u64 value = (u64)bytes * P64_1;
    for (int i = 0; i < 4; i++)
        value += folded(lanes[2 * i] ^ word(SECRET + 11 + 16 * i), lanes[2 * i + 1] ^ word(SECRET + 19 + 16 * i));
    value = (value ^ (value >> 37)) * 0x165667919E3779F9ull;
    return value ^ (value >> 32);
}

// ``sums``: (digests, blocks, 8).
KERNEL(256, 1) sum_blocks(const u8* data, i64 bytes, i64 digests, u64* sums) {
    const i64 per_digest = 8 * ((bytes - 1) / 1024);
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < digests * per_digest; i += (i64)gridDim.x * blockDim.x)
        sums[i] = block_sum(data + i / per_digest * bytes + i % per_digest / 8 * 1024, 16, (int)(i % 8));
}
// ``found``: (digests,)
KERNEL(8, 1) chain(const u8* data, i64 bytes, i64 digests, const u64* sums, u64* found) {
    SHARED u64 lanes[8];
    for (i64 d = blockIdx.x; d < digests; d += gridDim.x) {
        each(8, [&](int lane) { lanes[lane] = lane_of(data + d * bytes, bytes, sums + d * 8 * ((bytes - 1) / 1024), lane); });
        each(1, [&](int) { found[d] = merged(lanes, bytes); });
    }
}
