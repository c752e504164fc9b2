/* Parser of the head of a response. The only accepted framing is one Content-Length. */
#include <string.h>
#include <strings.h>

#include "generator.h"

int read_head(const char *text, size_t size, uint16_t *status, size_t *length) {
    const char *line = text, *stop, *end = text + size;
    bool measured = false;
    while ((stop = memchr(line, '\n', (size_t)(end - line)))) {
        if (stop == line || stop[-1] != '\r')
            return -1;
        if (line == text) {
            if (stop - line < 13 || memcmp(line, "HTTP/1.1 ", 9))
                return -1;
            *status = 0;
            for (const char *digit = line + 9; digit < line + 12; digit++)
                *status = (uint16_t)(*digit >= '0' && *digit <= '9' ? *status * 10 + *digit - '0' : STATUS_MAX + 1);
            if (*status < 200 || *status > STATUS_MAX)
                return -1;
        } else if (stop == line + 1) {
            return measured ? (int)(stop + 1 - text) : -1;
        } else if ((*line | 32) == 'c' && !strncasecmp(line, "content-length:", 15)) {
            const char *digit = line + 15;
            digit += *digit == ' ';
            if (measured || stop - 1 - digit < 1 || stop - 1 - digit > 9)
                return -1;
            for (*length = 0; digit < stop - 1; digit++) {
                if (*digit < '0' || *digit > '9')
                    return -1;
                *length = *length * 10 + (size_t)(*digit - '0');
            }
            measured = true;
        } else if ((*line | 32) == 't' && !strncasecmp(line, "transfer-encoding:", 18)) {
            return -1;
        }
        line = stop + 1;
    }
    return size < HEAD_MAX ? 0 : -1;
}
