// Draws views from decoded images, with the bits of kernels.py (Pillow 13's arithmetic). One block draws one view.
//
// All arithmetic is IEEE, one operation at a time: int32 for resize and grey, float32 for blends and smoothing, float64 for
// weights and affine ops. No function of a maths library is called; the host sends sines and cosines.

// Rows of the tables that packed.py writes; its numpy dtypes have the same fields and alignment.
enum Kind { AUTOCONTRAST, EQUALIZE, POSTERIZE, SOLARIZE, SOLARIZE_ADD, BRIGHTNESS, CONTRAST,
            COLOR, SHARPNESS, ALONG_ROWS, ALONG_COLUMNS, ROTATE, QUARTERS };
struct Op { int kind, whole; double real[6]; };  // whole: bits, threshold, quarter turns; real: factor, slope and shift, matrix
struct View {
    i64 source;                           // offset of its image in what was sent, uint8 (rows, columns, 3)
    int pitch;                            // bytes from one row of the image to the next; 0: pixels drawn by a worker, (3, R, R)
    int top, left, height, width;         // the crop
    int scaled_height, scaled_width;      // what it is resized to
    int first_y, first_x, rows, columns;  // the part of the resized crop that lies in the view
    int place_y, place_x;                 // where that part begins in the view; the rest of the view is black
    int flip, first_op, ops;
};
struct Constants { int size, cubic; u8 fill[4]; };
struct Shared { int counts[768]; u8 table[768]; u64 total; };  // shared by the threads of a block

// ---- resize (libImaging/Resample.c) -------------------------------------------------------------------------------
const int BITS = 22;  // 32 - 8 - 2: Pillow's PRECISION_BITS
struct Axis { int* starts; int* counts; int* weights; int taps; };  // weights: (taps, outputs), so that threads read neighbours

DEVICE int clip8(int value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

DEVICE double filter(double x, bool cubic) {
    if (cubic) {
        if (x < 1.0) return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0;
        if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
        return 0.0;
    }
    return x < 1.0 ? 1.0 - x : 0.0;
}

// Weights of outputs ``first`` .. ``first`` + m - 1 of an axis resized from n_in to n_out pixels (precompute_coeffs,
// normalize_coeffs_8bpc).
DEVICE void weigh(int n_in, int n_out, int first, int m, bool cubic, Axis axis) {
    each(m, [&](int i) {
        const double scale = (double)(float)n_in / n_out, stretch = scale > 1.0 ? scale : 1.0;
        const double support = (cubic ? 2.0 : 1.0) * stretch, inverse = 1.0 / stretch;
        const double center = (i + first + 0.5) * scale;
        int start = (int)(center - support + 0.5);
        if (start < 0) start = 0;
        int end = (int)(center + support + 0.5);
        if (end > n_in) end = n_in;
        double total = 0.0;
        for (int k = start; k < end; k++) {
            const double x = (k - center + 0.5) * inverse;
            total += filter(x < 0.0 ? -x : x, cubic);
        }
        for (int k = start; k < end; k++) {
            const double x = (k - center + 0.5) * inverse;
            double w = filter(x < 0.0 ? -x : x, cubic);
            w = (total != 0.0 ? w / total : w) * (1 << BITS);
            axis.weights[(k - start) * m + i] = w < 0.0 ? (int)(w - 0.5) : (int)(w + 0.5);
        }
        axis.starts[i] = start;
        axis.counts[i] = end - start;
    });
}

DEVICE u8 weighted(const u8* source, i64 step, const Axis& axis, int i, int m) {
    int value = 1 << (BITS - 1);
    const int n = axis.counts[i];
    for (int k = 0; k < n; k++) value += axis.weights[k * m + i] * (int)source[k * step];
    return (u8)clip8(value >> BITS);
}

// Resizes the crop and writes the part that lies in the view to ``out``, uint8 (3, R, R). ``between``: result of the first pass.
DEVICE void resize(const u8* image, const View& v, const Constants& all, u8* between, Axis ys, Axis xs, u8* out) {
    const int R = all.size, rows = v.rows, columns = v.columns;
    if (rows < R || columns < R) each(3 * R * R, [&](int i) { out[i] = 0; });
    if (rows <= 0 || columns <= 0) return;
    weigh(v.height, v.scaled_height, v.first_y, rows, all.cubic, ys);
    weigh(v.width, v.scaled_width, v.first_x, columns, all.cubic, xs);
    // the source rows and columns that the window needs
    const int y0 = ys.starts[0], x0 = xs.starts[0];
    const int height = ys.starts[rows - 1] + ys.counts[rows - 1] - y0;
    const int width = xs.starts[columns - 1] + xs.counts[columns - 1] - x0;
    const u8* source = image + (i64)(v.top + y0) * v.pitch + 3 * (v.left + x0);
    if (v.height - v.scaled_height > 0 && v.height - v.scaled_height > 2 * (v.width - v.scaled_width)) {
        const int n = 3 * width;  // vertical pass first: Pillow 13 does so where the height shrinks much more than the width
        each(rows * n, [&](int i) {
            const int y = i / n, x = i % n;
            between[i] = weighted(source + (i64)(ys.starts[y] - y0) * v.pitch + x, v.pitch, ys, y, rows);
        });
        each(rows * columns, [&](int i) {
            const int y = i / columns, x = i % columns, to = v.place_x + (v.flip ? columns - 1 - x : x);
            const u8* from = between + y * n + 3 * (xs.starts[x] - x0);
            for (int c = 0; c < 3; c++) out[(c * R + v.place_y + y) * R + to] = weighted(from + c, 3, xs, x, columns);
        });
    } else {
        const int n = height * columns;
        each(n, [&](int i) {
            const int y = i / columns, x = i % columns, to = v.flip ? columns - 1 - x : x;
            const u8* from = source + (i64)y * v.pitch + 3 * (xs.starts[x] - x0);
            for (int c = 0; c < 3; c++) between[c * n + y * columns + to] = weighted(from + c, 3, xs, x, columns);
        });
        each(3 * rows * columns, [&](int i) {
            const int c = i / (rows * columns), y = i / columns % rows, x = i % columns;
            const u8* from = between + c * n + (ys.starts[y] - y0) * columns + x;
            out[(c * R + v.place_y + y) * R + v.place_x + x] = weighted(from, columns, ys, y, rows);
        });
    }
}

// ---- ops that move no pixel ---------------------------------------------------------------------------------------
DEVICE int grey(int r, int g, int b) { return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16; }

DEVICE float cut(float value) { return value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value; }

DEVICE u8 blend(int low, int high, float factor) { return (u8)(int)cut((float)low + factor * (float)(high - low)); }

DEVICE void count_values(const u8* pixels, int area, Shared& s) {
    each(768, [&](int i) { s.counts[i] = 0; });
    each(3 * area, [&](int i) { count(&s.counts[i / area * 256 + pixels[i]]); });
}

DEVICE void stretch(Shared& s) {  // PIL.ImageOps.autocontrast
    each(3, [&](int c) {
        const int* counts = s.counts + 256 * c;
        int low = 0, high = 255;
        while (low < 255 && counts[low] == 0) low++;
        while (high > 0 && counts[high] == 0) high--;
        for (int v = 0; v < 256; v++) {
            int value = v;
            if (high > low) {
                const double scale = 255.0 / (high - low), offset = -low * scale;
                value = clip8((int)(v * scale + offset));
            }
            s.table[256 * c + v] = (u8)value;
        }
    });
}

DEVICE void equalize(Shared& s) {  // PIL.ImageOps.equalize
    each(3, [&](int c) {
        const int* counts = s.counts + 256 * c;
        int total = 0, last = 0, kinds = 0;
        for (int v = 0; v < 256; v++)
            if (counts[v]) { total += counts[v]; last = counts[v]; kinds++; }
        const int step = kinds > 1 ? (total - last) / 255 : 0;
        int n = step / 2;
        for (int v = 0; v < 256; v++) {
            s.table[256 * c + v] = (u8)(step ? (n / step < 255 ? n / step : 255) : v);
            n += counts[v];
        }
    });
}

DEVICE int simple(int kind, int v, int whole, int degenerate, float factor) {
    switch (kind) {
        case POSTERIZE: return whole <= 0 ? 0 : v & ~((1 << (8 - (whole < 8 ? whole : 8))) - 1);  // 0 bits: black
        case SOLARIZE: return whole > v ? v : 255 - v;
        case SOLARIZE_ADD: return 128 > v ? (v + whole < 255 ? v + whole : 255) : v;
        default: return (int)cut((float)degenerate + factor * (float)(v - degenerate));  // brightness, contrast
    }
}

DEVICE void look_up(u8* pixels, int area, const Op& op, Shared& s) {
    if (op.kind == AUTOCONTRAST || op.kind == EQUALIZE) {
        count_values(pixels, area, s);
        if (op.kind == AUTOCONTRAST) stretch(s); else equalize(s);
    } else {
        int degenerate = 0;
        if (op.kind == CONTRAST) {
            const u64 total = sum(s.total, area, [&](int i) { return (u64)grey(pixels[i], pixels[area + i], pixels[2 * area + i]); });
            degenerate = (int)((double)total / area + 0.5);
        }
        each(768, [&](int i) { s.table[i] = (u8)simple(op.kind, i % 256, op.whole, degenerate, (float)op.real[0]); });
    }
    each(3 * area, [&](int i) { pixels[i] = s.table[i / area * 256 + pixels[i]]; });
}

DEVICE void saturate(u8* pixels, int area, float factor) {  // PIL.ImageEnhance.Color
    each(area, [&](int i) {
        const int r = pixels[i], g = pixels[area + i], b = pixels[2 * area + i], low = grey(r, g, b);
        pixels[i] = blend(low, r, factor);
        pixels[area + i] = blend(low, g, factor);
        pixels[2 * area + i] = blend(low, b, factor);
    });
}

// ---- ops that read neighbours: from ``old`` to ``out``, uint8 (3, R, R) ------------------------------------------------
DEVICE float three(const u8* row, float side, float middle) {
    return (float)row[-1] * side + (float)row[0] * middle + (float)row[1] * side;
}

DEVICE void sharpen(const u8* old, u8* out, int R, float factor) {  // PIL.ImageEnhance.Sharpness; edges are not smoothed
    const float side = 1.0f / 13.0f, middle = 5.0f / 13.0f;
    each(3 * R * R, [&](int i) {
        const int y = i / R % R, x = i % R;
        if (y < 1 || x < 1 || y > R - 2 || x > R - 2) { out[i] = old[i]; return; }
        float value = 0.5f + three(old + i + R, side, side);  // from the row below upwards
        value += three(old + i, side, middle);
        value += three(old + i - R, side, side);
        out[i] = blend((int)cut(value), old[i], factor);
    });
}

DEVICE int floor_of(double value) { const int whole = (int)value; return whole > value ? whole - 1 : whole; }

DEVICE double between_four(double v1, double v2, double v3, double v4, double part, bool cubic) {
    if (!cubic) return v2 + (v3 - v2) * part;
    const double p2 = -v1 + v3, p3 = 2.0 * (v1 - v2) + v3 - v4, p4 = -v1 + v2 - v3 + v4;
    return v2 + part * (p2 + part * (p3 + part * p4));
}

DEVICE u8 cut_off(double value) { return (u8)(int)(value < 0.0 ? 0.0 : value > 255.0 ? 255.0 : value); }

DEVICE int held(int at, int R) { return at < 0 ? 0 : at >= R ? R - 1 : at; }  // the nearest row or column of the picture

// timm's shear and translate: the source of a pixel lies slope * (its coordinate on the other axis) + shift further along.
DEVICE void slide(const u8* old, u8* out, const Constants& all, bool along_rows, double slope, double shift) {
    const int R = all.size;
    each(R * R, [&](int i) {
        const int y = i / R, x = i % R;
        const double across = slope * ((along_rows ? y : x) + 0.5), place = ((along_rows ? x : y) + 0.5);
        const double from = along_rows ? place + across + shift : across + place + shift;
        const bool inside = 0.0 <= from && from < R;
        const double at = from - 0.5;
        const int whole = floor_of(inside ? at : 0.0), line = along_rows ? y * R : x, step = along_rows ? 1 : R;
        const int a = line + held(whole - 1, R) * step, b = line + held(whole, R) * step;
        const int c = line + held(whole + 1, R) * step, d = line + held(whole + 2, R) * step;
        for (int channel = 0; channel < 3; channel++) {
            const u8* p = old + channel * R * R;
            out[channel * R * R + i] =
                inside ? cut_off(between_four(p[a], p[b], p[c], p[d], at - whole, all.cubic)) : all.fill[channel];
        }
    });
}

DEVICE void turn(const u8* old, u8* out, const Constants& all, const double* m) {  // PIL.Image.rotate
    const int R = all.size;
    each(R * R, [&](int i) {
        const double x = i % R + 0.5, y = i / R + 0.5;
        const double from_x = m[0] * x + m[1] * y + m[2], from_y = m[3] * x + m[4] * y + m[5];
        if (!(0.0 <= from_x && from_x < R && 0.0 <= from_y && from_y < R)) {
            for (int c = 0; c < 3; c++) out[c * R * R + i] = all.fill[c];
            return;
        }
        const double u = from_x - 0.5, v = from_y - 0.5;
        const int column = floor_of(u), row = floor_of(v);
        for (int c = 0; c < 3; c++) {
            double lines[4];
            for (int k = 0; k < 4; k++) {
                const u8* p = old + (c * R + held(row - 1 + k, R)) * R;
                lines[k] = between_four(p[held(column - 1, R)], p[held(column, R)], p[held(column + 1, R)],
                                        p[held(column + 2, R)], u - column, all.cubic);
            }
            out[c * R * R + i] = cut_off(between_four(lines[0], lines[1], lines[2], lines[3], v - row, all.cubic));
        }
    });
}

DEVICE void quarters(const u8* old, u8* out, int R, int times) {  // numpy.rot90
    each(3 * R * R, [&](int i) {
        const int c = i / (R * R), y = i / R % R, x = i % R, last = R - 1;
        const int from_y = times == 1 ? x : times == 2 ? last - y : times == 3 ? last - x : y;
        const int from_x = times == 1 ? last - y : times == 2 ? last - x : times == 3 ? y : x;
        out[i] = old[(c * R + from_y) * R + from_x];
    });
}

// ---- a whole view -------------------------------------------------------------------------------------------------
DEVICE bool moves(int kind) { return kind >= SHARPNESS; }

// ``room``: scratch memory of this block. ``taps``: of the widest filter among all views.
DEVICE void draw(const u8* images, const View& v, const Op* ops, const Constants& all, u8* room, int taps, Shared& s, u8* out) {
    const int R = all.size, area = R * R;
    if (!v.pitch) {
        each(3 * area, [&](int i) { out[i] = images[v.source + i]; });
        return;
    }
    int* numbers = (int*)room;
    Axis ys = {numbers, numbers + R, numbers + 4 * R, taps}, xs = {numbers + 2 * R, numbers + 3 * R, numbers + (4 + taps) * R, taps};
    u8* other = (u8*)(numbers + (4 + 2 * taps) * R);
    u8* between = other + (3 * area + 15) / 16 * 16;
    int moving = 0;
    for (int k = 0; k < v.ops; k++) moving += moves(ops[v.first_op + k].kind);
    u8* here = moving % 2 ? other : out;  // so that the last op leaves the view in ``out``
    u8* there = moving % 2 ? out : other;
    resize(images + v.source, v, all, between, ys, xs, here);
    for (int k = 0; k < v.ops; k++) {
        const Op& op = ops[v.first_op + k];
        if (!moves(op.kind)) {
            if (op.kind == COLOR) saturate(here, area, (float)op.real[0]);
            else look_up(here, area, op, s);
            continue;
        }
        if (op.kind == SHARPNESS) sharpen(here, there, R, (float)op.real[0]);
        else if (op.kind == ROTATE) turn(here, there, all, op.real);
        else if (op.kind == QUARTERS) quarters(here, there, R, op.whole);
        else slide(here, there, all, op.kind == ALONG_ROWS, op.real[0], op.real[1]);
        u8* t = here; here = there; there = t;
    }
}

// ``packed``: images, the rows of View at offset ``views_at``, those of Op at ``ops_at``. ``rooms``: ``room`` bytes of scratch
// memory for each block. ``out``: (n, 3, R, R).
KERNEL(256, 4) draw_views(const u8* packed, i64 views_at, i64 ops_at, const Constants* all, u8* rooms, i64 room, i64 taps,
                          u8* out, i64 n) {
    SHARED Shared s;
    const View* views = (const View*)(packed + views_at);
    const Op* ops = (const Op*)(packed + ops_at);
    const i64 pixels = (i64)3 * all->size * all->size;
    for (i64 i = blockIdx.x; i < n; i += gridDim.x)
        draw(packed, views[i], ops, *all, rooms + blockIdx.x * room, (int)taps, s, out + i * pixels);
}
#ifndef __CUDACC__
extern "C" void row_sizes(i64* out) { out[0] = sizeof(View); out[1] = sizeof(Op); out[2] = sizeof(Constants); }
#endif
