/* The other side of a shared page, with nothing but Xen's own headers: reads the page from a file, says on standard output what
 * it finds there, answers in the page, and writes it back. Usage: peer MODE FILE */
#include <errno.h> /* brings xs_wire.h's table of errors along */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define __XEN_INTERFACE_VERSION__ 0x00040d00
#define xen_mb() __sync_synchronize()
#define xen_rmb() __sync_synchronize()
#define xen_wmb() __sync_synchronize()

#include <xen/xen.h>
#include <xen/grant_table.h>
#include <xen/io/blkif.h>
#include <xen/io/console.h>
#include <xen/io/netif.h>
#include <xen/io/xenbus.h>
#include <xen/io/xs_wire.h>

/* The map ring has no C header: slots of 128 bytes in the standard ring. */
struct words { uint32_t w[32]; };
DEFINE_RING_TYPES(map, struct words, struct words);

static _Alignas(4096) uint8_t page[4096];

static void blk(void)
{
    blkif_back_ring_t ring;
    int notify, more;

    BACK_RING_INIT(&ring, (blkif_sring_t *)page, sizeof(page));
    printf("slots %u\n", RING_SIZE(&ring));
    while (ring.req_cons != ring.sring->req_prod) {
        blkif_request_t request = *RING_GET_REQUEST(&ring, ring.req_cons);
        blkif_response_t *response = RING_GET_RESPONSE(&ring, ring.rsp_prod_pvt);

        ring.req_cons++;
        ring.rsp_prod_pvt++;
        printf("op %u sector %llu", request.operation, (unsigned long long)request.sector_number);
        for (int i = 0; i < request.nr_segments; i++)
            printf(" [%u %u-%u]", request.seg[i].gref, request.seg[i].first_sect, request.seg[i].last_sect);
        printf("\n");
        response->id = request.id;
        response->operation = request.operation;
        /* One answer of each kind, in turn. */
        switch (ring.req_cons % 3) {
        case 1: response->status = BLKIF_RSP_OKAY; break;
        case 2: response->status = BLKIF_RSP_ERROR; break;
        default: response->status = BLKIF_RSP_EOPNOTSUPP; break;
        }
    }
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&ring, notify);
    RING_FINAL_CHECK_FOR_REQUESTS(&ring, more);
    printf("notify %d more %d\n", notify, more);
}

static void tx(void)
{
    netif_tx_back_ring_t ring;
    int notify;

    BACK_RING_INIT(&ring, (netif_tx_sring_t *)page, sizeof(page));
    printf("slots %u\n", RING_SIZE(&ring));
    while (ring.req_cons != ring.sring->req_prod) {
        netif_tx_request_t request = *RING_GET_REQUEST(&ring, ring.req_cons);
        netif_tx_response_t *response = RING_GET_RESPONSE(&ring, ring.rsp_prod_pvt);

        ring.req_cons++;
        ring.rsp_prod_pvt++;
        printf("gref %u offset %u flags %u id %u size %u\n", request.gref, request.offset, request.flags,
               request.id, request.size);
        response->id = request.id;
        response->status = NETIF_RSP_OKAY;
    }
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&ring, notify);
    printf("notify %d\n", notify);
}

/* Frames of 60, 61, … bytes at offset 2 of each page; the third has more data in the fourth, the fifth says that it failed. */
static void rx(void)
{
    netif_rx_back_ring_t ring;
    int notify;

    BACK_RING_INIT(&ring, (netif_rx_sring_t *)page, sizeof(page));
    printf("slots %u\n", RING_SIZE(&ring));
    for (int i = 0; ring.req_cons != ring.sring->req_prod; i++) {
        netif_rx_request_t request = *RING_GET_REQUEST(&ring, ring.req_cons);
        netif_rx_response_t *response = RING_GET_RESPONSE(&ring, ring.rsp_prod_pvt);

        ring.req_cons++;
        ring.rsp_prod_pvt++;
        printf("id %u gref %u\n", request.id, request.gref);
        response->id = request.id;
        response->offset = 2;
        response->flags = i == 2 ? NETRXF_more_data : 0;
        response->status = i == 4 ? NETIF_RSP_ERROR : 60 + i;
    }
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&ring, notify);
    printf("notify %d\n", notify);
}

/* A client on a ring that its backend has laid out, as M1 lays out the map ring. */
static void map(void)
{
    map_front_ring_t ring;
    int notify, more;

    FRONT_RING_ATTACH(&ring, (map_sring_t *)page, 0, sizeof(page));
    printf("slots %u\n", RING_SIZE(&ring));
    for (uint32_t i = 0; !RING_FULL(&ring); i++) {
        struct words *slot = RING_GET_REQUEST(&ring, ring.req_prod_pvt);

        for (int word = 0; word < 32; word++)
            slot->w[word] = i * 100 + word;
        ring.req_prod_pvt++;
    }
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&ring, notify);
    RING_FINAL_CHECK_FOR_RESPONSES(&ring, more);
    printf("notify %d more %d\n", notify, more);
}

static void map_answers(void)
{
    map_front_ring_t ring;

    FRONT_RING_ATTACH(&ring, (map_sring_t *)page, 0, sizeof(page));
    while (ring.rsp_cons != ring.sring->rsp_prod) {
        struct words *slot = RING_GET_RESPONSE(&ring, ring.rsp_cons++);

        printf("%u %u\n", slot->w[0], slot->w[31]);
    }
}

static void console(void)
{
    struct xencons_interface *console = (void *)page;

    for (; console->out_cons != console->out_prod; console->out_cons++)
        putchar(console->out[MASK_XENCONS_IDX(console->out_cons, console->out)]);
    for (const char *text = "typed"; *text; text++)
        console->in[MASK_XENCONS_IDX(console->in_prod++, console->in)] = *text;
}

static void xenstore(void)
{
    struct xenstore_domain_interface *store = (void *)page;

    while (store->req_cons != store->req_prod) {
        struct xsd_sockmsg message, reply;
        const char *text = "value";

        for (unsigned int i = 0; i < sizeof(message); i++)
            ((char *)&message)[i] = store->req[MASK_XENSTORE_IDX(store->req_cons++)];
        printf("type %u tx %u:", message.type, message.tx_id);
        for (unsigned int i = 0; i < message.len; i++) {
            char letter = store->req[MASK_XENSTORE_IDX(store->req_cons++)];

            printf("%c", letter ? letter : '|');
        }
        printf("\n");
        reply = message;
        if (message.type == XS_WRITE) {
            reply.type = XS_ERROR;
            for (unsigned int i = 0; i < sizeof(xsd_errors) / sizeof(*xsd_errors); i++)
                if (xsd_errors[i].errnum == EACCES)
                    text = xsd_errors[i].errstring;
            reply.len = strlen(text) + 1; /* with its NUL */
        } else {
            reply.len = strlen(text);
        }
        for (unsigned int i = 0; i < sizeof(reply); i++)
            store->rsp[MASK_XENSTORE_IDX(store->rsp_prod++)] = ((char *)&reply)[i];
        for (unsigned int i = 0; i < reply.len; i++)
            store->rsp[MASK_XENSTORE_IDX(store->rsp_prod++)] = text[i];
    }
}

/* A grant entry as the granter writes it. */
static void grant(void)
{
    grant_entry_v1_t *table = (void *)page;

    for (int i = 0; i < 512; i++)
        if (table[i].flags)
            printf("%d: flags %u domid %u frame %u\n", i, table[i].flags, table[i].domid, table[i].frame);
}

static void numbers(void)
{
#define SAY(name) printf(#name " %d\n", (int)(name))
    SAY(XS_DIRECTORY); SAY(XS_READ); SAY(XS_WATCH); SAY(XS_UNWATCH); SAY(XS_TRANSACTION_START); SAY(XS_TRANSACTION_END);
    SAY(XS_WRITE); SAY(XS_MKDIR); SAY(XS_RM); SAY(XS_SET_PERMS); SAY(XS_WATCH_EVENT); SAY(XS_ERROR);
    SAY(XS_RESET_WATCHES); SAY(XS_DIRECTORY_PART); SAY(XENSTORE_PAYLOAD_MAX); SAY(sizeof(struct xsd_sockmsg));
    SAY(XenbusStateInitialising); SAY(XenbusStateInitWait); SAY(XenbusStateInitialised); SAY(XenbusStateConnected);
    SAY(XenbusStateClosing); SAY(XenbusStateClosed); SAY(XenbusStateReconfiguring); SAY(XenbusStateReconfigured);
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*run)(void); } modes[] = {
        { "blk", blk }, { "tx", tx }, { "rx", rx }, { "map", map }, { "map-answers", map_answers },
        { "console", console }, { "xenstore", xenstore }, { "grant", grant }, { "numbers", numbers },
    };
    FILE *file = argc == 3 ? fopen(argv[2], "r+") : NULL;

    if (!file || fread(page, sizeof(page), 1, file) != 1)
        return 1;
    for (unsigned int i = 0; i < sizeof(modes) / sizeof(*modes); i++)
        if (!strcmp(argv[1], modes[i].name)) {
            modes[i].run();
            rewind(file);
            return fwrite(page, sizeof(page), 1, file) != 1 || fclose(file);
        }
    return 2;
}
