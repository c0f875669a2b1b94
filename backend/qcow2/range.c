// Range locks: which guest clusters are being worked on.
//
// Reading, and writing in place, shares clusters; whatever changes where a cluster lies has it alone. Ranges are kept
// in the order in which they were asked for, and each waits only for earlier ones that are in its way, so nobody
// starves and, since a request has one range at a time, nobody waits in a circle. There are no more than there are
// workers.
#include "backend/qcow2/image.h"

static bool in_the_way(const struct range *earlier, const struct range *r)
{
    return earlier->first <= r->last && r->first <= earlier->last && (earlier->exclusive || r->exclusive);
}

void range_lock(struct qcow2 *q, struct range *r, uint64_t offset, uint64_t length, bool exclusive)
{
    *r = (struct range){NULL, cluster_of(q, offset), cluster_of(q, offset + length - 1), exclusive};
    *q->ranges_end = r;
    q->ranges_end = &r->next;
    for (struct range *e = q->ranges; e != r;) {
        if (in_the_way(e, r)) {
            pthread_cond_wait(&q->ranges_moved, &q->lock);
            e = q->ranges;
        } else {
            e = e->next;
        }
    }
}

void range_unlock(struct qcow2 *q, struct range *r)
{
    struct range **at = &q->ranges;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    if (!*at)
        q->ranges_end = at;
    pthread_cond_broadcast(&q->ranges_moved);
}
