// See keys.h. An escape may be split over two reads, so the state is kept.
#include "backend/keys.h"

enum { CTRL_A = 1 };

void keys_init(struct keys *k, void (*fn)(void *ctx, enum key_action), void *ctx)
{
    *k = (struct keys){.fn = fn, .ctx = ctx};
}

size_t keys_filter(struct keys *k, uint8_t *data, size_t size)
{
    size_t out = 0;
    for (size_t i = 0; i < size; i++) {
        uint8_t b = data[i];
        if (!k->escaped) {
            if (b == CTRL_A)
                k->escaped = true;
            else
                data[out++] = b;
            continue;
        }
        k->escaped = false;
        switch (b) {
        case CTRL_A:
            data[out++] = b;
            break;
        case 'x':
        case 'X':
            k->fn(k->ctx, KEY_QUIT);
            break;
        case 'p':
        case 'P':
            k->fn(k->ctx, KEY_BUTTON);
            break;
        case 'd':
        case 'D':
            k->fn(k->ctx, KEY_DETACH);
            break;
        default: // anything unknown helps, and is not sent
            k->fn(k->ctx, KEY_HELP);
        }
    }
    return out;
}
