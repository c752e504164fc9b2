/*
 * The life cycle of one pod address on one node, and what NMI answers to requests from that address.
 *
 * docs/address-lifecycle.md describes the model: what it covers, the assumptions, and the code that ensures each of them.
 * tests/nightly/model/test_address_lifecycle.py runs spin on it, once for each configuration.
 *
 * Time is not modelled: every step may take arbitrarily long, except where an assumption orders two steps. The timestamps
 * that NMI compares (a container's startedAt, the time of a netlink message) are represented by the serial number of the
 * sandbox: the sandboxes that hold the address one after another are numbered from 1.
 *
 * Sizes:          two pods; SANDBOXES (how often the address is given away), EVENTS (that may lag after a list), REQUESTS,
 *                 FLAPS (netlink messages about an interface that is replaced while its pod lives), OVERRUNS.
 * Environment:    SHOWS_NOTHING   the CNI plugin removes nothing that netlink reports
 *                 WRITTEN_FIRST   the address is given away only after the former pod's end is written, and after the reads
 *                                 sent before that have expired; NMI knows of the deletion; reads are answered
 *                 CLAIMED_FIRST   a pod sends its first request after NMI has received its address from the watch
 * Broken assumptions and mechanisms, each of which must lead to a counterexample: see the tests.
 */

#define PODS 2
#ifndef SANDBOXES
#define SANDBOXES 2
#endif
#ifndef EVENTS
#define EVENTS 1
#endif
#ifndef REQUESTS
#define REQUESTS 1
#endif
#ifndef FLAPS
#define FLAPS 1
#endif
#ifndef OVERRUNS
#define OVERRUNS 1
#endif

#define NO_POD PODS
#define OVERRUN 0

/* ---- The node: which sandbox really holds the address. ---- */

#define WAITING 0   /* no sandbox yet */
#define RUNNING 1   /* the sandbox holds the address, containers run */
#define ENDED 2     /* every container has terminated, the sandbox still holds the address */
#define DOWN 3      /* the sandbox is gone (CNI DEL), the address is free */
#define MOVED 4     /* a new sandbox with another address */

byte life[PODS];
byte sandbox[PODS];             /* number of the pod's latest sandbox at the address */
byte owner = NO_POD;
byte made;                      /* sandboxes that have held the address so far */
byte flaps;
byte overruns;

/* Messages of netlink that NMI has not read: the number of the sandbox whose interface or route was removed. */
chan netlink = [SANDBOXES + FLAPS] of { byte, bit };
#ifdef STARTED_LATE
bit subscribed;                 /* NMI runs */
#else
bit subscribed = 1;
#endif
byte behind;                    /* how many of them were queued before the present owner got the address */

/* ---- The kubelet's view of each pod, and the API server's object. ---- */

typedef Status {
    bit there = 1;
    bit deleting;               /* deletionTimestamp */
    bit dead;                   /* every container terminated, or PodReadyToStartContainers is False */
    byte number;                /* the sandbox that the status is about; 0: it names no such address */
};

Status object[PODS];            /* what the API server has: as old as the kubelet's last write */

#define TRUE_NUMBER(i) (life[i] == MOVED -> 0 : sandbox[i])
#define TRUE_END(i) (life[i] == ENDED || life[i] == DOWN)

/* ---- The watch: states that NMI has not taken over yet. A list puts all pods into it. ---- */

chan watch = [PODS + EVENTS] of { byte, bit, bit, bit, byte };
bit lost = 1;                   /* everything has to be listed */

/* ---- NMI. ---- */

typedef Entry {
    bit known;
    bit confirmed;
    bit deleting;
    bit dead;
    bit suspended;              /* by local evidence */
    bit ready;                  /* a ready response is kept */
    byte number;
};

Entry entry[PODS];
byte evidence;                  /* the newest sandbox whose removal netlink has reported */
byte buried;                    /* the same, without false reports: only the assumption about the kubelet looks at it */
byte settled = NO_POD;

bit verified[PODS];             /* a verification read of the present generation found the pod alive; it may still be on its way */

byte asked = NO_POD;            /* the pod that a read about the address itself found; it is still on its way */
byte found;                     /* and the pod's sandbox */
bit crossed;                    /* NMI has learnt something since the read was sent */

#define IDLE 0
#define VERIFYING 1
#define UNVERIFIED 2
#define FETCHING 3
typedef Request {
    byte phase;
    byte from;                  /* the pod that sent it */
    byte who;                   /* the pod that NMI decided on */
};
Request request[REQUESTS];

byte p; byte q; byte r; byte s; /* scratch, always 0 between steps */
byte number_; bit there_; bit deleting_; bit dead_; bit real_;

/* ---- Abbreviations. ---- */

#ifdef NO_POD_STATE
#define REFUSED(x) false
#define LIVE(x) (x.there && x.number)
#else
#define REFUSED(x) (x.dead)
#define LIVE(x) (x.there && x.number && !x.dead)
#endif

#define CLAIMS(i) (entry[i].known && entry[i].number)
#define SERVED(i) (!entry[i].suspended && !REFUSED(entry[i]))
#ifdef NO_DOUBT
#define DOUBTFUL(i) false
#else
#define DOUBTFUL(i) (entry[i].deleting || !entry[i].confirmed)
#endif

#ifdef NETLINK_UNORDERED
#define IN_ORDER true
#else
#define IN_ORDER (behind == 0)
#endif

/* No other pod is reported at the address. */
#define ALONE(i) (!object[1 - i].there || !object[1 - i].number)

#ifdef KUBELET_LATE
#define WRITTEN_IN_TIME(i) true
#else
#define WRITTEN_IN_TIME(i) (!entry[i].suspended || !object[i].there || object[i].dead || object[i].number == 0 || object[i].number > buried)
#endif

#ifdef NO_GENERATION
#define STANDS(i) true
#else
#define STANDS(i) (MATCH == request[i].who && SERVED(request[i].who))
#endif

#ifdef READY_RESPONSES_UNCHECKED
#define UNCHECKED(i) (entry[i].ready)
#else
#define UNCHECKED(i) false
#endif

#define ASKS (owner != NO_POD && life[owner % PODS] == RUNNING)
#ifdef CLAIMED_FIRST
#define MAY_ASK (entry[owner % PODS].known && entry[owner % PODS].number == sandbox[owner % PODS])
#else
#define MAY_ASK true
#endif

#define COUNT (CLAIMS(0) + CLAIMS(1))
#define ONLY (CLAIMS(0) -> 0 : 1)

#ifdef FIRST_CLAIM_WINS
#define MATCH (COUNT >= 1 -> ONLY : NO_POD)
#else
#define MATCH (COUNT == 1 -> ONLY : ((COUNT > 1 && settled != NO_POD && CLAIMS(settled % PODS)) -> settled : NO_POD))
#endif

/* An answer with the token of pod `who` leaves for the sender of request i. */
inline answer(i, whom) {
    assert(request[i].from == whom);
#ifdef SECOND_OWNER_IS_SERVED
    assert(sandbox[whom] < 2);
#endif
#ifndef SHOWS_NOTHING
    assert(owner == NO_POD || owner == whom);   /* nor does its packet reach another pod */
#endif
    request[i].phase = IDLE; request[i].from = 0; request[i].who = 0;
}

inline forget(i) {
    request[i].phase = IDLE; request[i].from = 0; request[i].who = 0;
}

/* Begin a new generation of pod i's record. */
inline bump(i) {
#ifndef READY_RESPONSES_UNCHECKED
    entry[i].ready = 0;
#endif
#ifndef READ_SHARED
    verified[i] = 0;
#endif
#ifndef NO_GENERATION
    /* What was decided before is decided again, which is the same as if the request came now. */
    r = 0;
    do
    :: r < REQUESTS ->
        if
        :: request[r].phase != IDLE && request[r].who == i -> forget(r)
        :: else
        fi;
        r++
    :: else -> break
    od;
    r = 0
#endif
}

/* NMI takes over a state of pod i, from the watch, a list or a read. */
inline take(i, is_deleting, is_dead, a_number, is_confirmed) {
    if
    :: a_number && (!entry[i].known || !entry[i].number) -> settled = NO_POD
    :: else
    fi;
#if defined(LIFTED_BY_ANY_EVENT)
    entry[i].suspended = 0;
#else
    if
    :: a_number == 0 || a_number > evidence -> entry[i].suspended = 0
#ifdef UNCLAIMED_EVIDENCE_FORGOTTEN
    :: a_number && a_number <= evidence && !CLAIMS(i) -> entry[i].suspended = 0
#else
    :: a_number && a_number <= evidence && !CLAIMS(i) -> entry[i].suspended = 1
#endif
    :: else
    fi;
#endif
    crossed = 1;
    entry[i].known = 1;
    entry[i].confirmed = is_confirmed;
    entry[i].deleting = is_deleting;
    entry[i].dead = is_dead;
    entry[i].number = a_number;
    bump(i)
}

inline retire(i) {
    crossed = 1;
    entry[i].known = 0; entry[i].confirmed = 0; entry[i].deleting = 0; entry[i].dead = 0; entry[i].suspended = 0;
    entry[i].number = 0;
    if
    :: settled == i -> settled = NO_POD
    :: else
    fi;
    bump(i);
    entry[i].ready = 0
}

/* The answer to the read about an address that no pod, or more than one, claims. */
inline take_lookup() {
    if
#ifndef LOOKUP_UNCHECKED
    :: crossed -> skip          /* it is read again */
#endif
    :: entry[asked].known && entry[asked].suspended -> skip
    :: else ->
        if
        :: !entry[asked].known || !entry[asked].number -> take(asked, 0, 0, found, 0)
        :: else -> if :: COUNT > 1 && CLAIMS(asked) -> settled = asked :: else fi
        fi
    fi;
    asked = NO_POD; found = 0; crossed = 0
}

inline empty_watch() {
    do
    :: nempty(watch) -> watch?q,there_,deleting_,dead_,number_
    :: empty(watch) -> break
    od;
    q = 0; there_ = 0; deleting_ = 0; dead_ = 0; number_ = 0
}

/* The API server has stored a change of pod i. A watch that cannot keep up is closed by the server. */
inline publish(i) {
    if
    :: lost -> skip
    :: !lost && nfull(watch) -> watch!i,object[i].there,object[i].deleting,object[i].dead,object[i].number
    :: !lost && full(watch) -> empty_watch(); lost = 1
    fi
}

/* ---- Processes. Each step is atomic; between steps everything else may happen. ---- */

#ifdef READS_LAST_LONGER
#define EXPIRED(i) true
#else
#define EXPIRED(i) (!verified[i])
#endif

#ifdef WRITTEN_FIRST
#define MAY_BE_FREED(i) ((object[i].dead || !object[i].there) && entry[i].deleting && EXPIRED(i))
#else
#define MAY_BE_FREED(i) true
#endif

#ifdef CLAIMED_FIRST
#define MAY_BE_REMOVED(i) (life[i] == WAITING || life[i] == DOWN)
#else
#define MAY_BE_REMOVED(i) true
#endif

/* One pod on its way: the runtime and the CNI plugin, the kubelet's status, the API server's object, NMI's reads of it. */
active [PODS] proctype Pod() {
    do
    /* The runtime and the CNI plugin. */
    :: d_step { (life[_pid] == WAITING || life[_pid] == DOWN) && owner == NO_POD && made < SANDBOXES &&
            object[_pid].there && !object[_pid].deleting && (made || !_pid) ->
        made++;
        sandbox[_pid] = made;
        life[_pid] = RUNNING;
        owner = _pid;
        behind = len(netlink)
       }
    :: d_step { life[_pid] == RUNNING -> life[_pid] = ENDED }
    :: d_step { life[_pid] == ENDED && !object[_pid].deleting -> life[_pid] = RUNNING }   /* restarted in its sandbox */
    :: d_step { (life[_pid] == RUNNING || life[_pid] == ENDED) && MAY_BE_FREED(_pid) ->
        life[_pid] = DOWN;
        owner = NO_POD;
        behind = 0;
#ifndef SHOWS_NOTHING
        if
        :: subscribed -> netlink!sandbox[_pid],1
        :: else
        fi
#endif
       }
#ifndef SHOWS_NOTHING
    :: d_step { (life[_pid] == RUNNING || life[_pid] == ENDED) && MAY_BE_FREED(_pid) && overruns < OVERRUNS ->
        overruns++;
        life[_pid] = DOWN;
        owner = NO_POD;
        behind = 0;
#ifdef NEVER_SEEN
        skip
#else
        netlink!OVERRUN,1       /* the message itself is lost, and recv() reports ENOBUFS */
#endif
       }
    :: d_step { life[_pid] == RUNNING && flaps < FLAPS -> flaps++; netlink!sandbox[_pid],0 }
#endif
    :: d_step { life[_pid] == DOWN && !object[_pid].deleting -> life[_pid] = MOVED }
    /* The kubelet writes what is true at that time, as late as it likes. */
    :: d_step { object[_pid].there && (object[_pid].number != TRUE_NUMBER(_pid) || object[_pid].dead != TRUE_END(_pid)) ->
        object[_pid].number = TRUE_NUMBER(_pid);
        object[_pid].dead = TRUE_END(_pid);
        publish(_pid)
       }
    /* A user deletes the pod; at some time its object goes. */
    :: d_step { object[_pid].there && !object[_pid].deleting && life[_pid] != WAITING -> object[_pid].deleting = 1; publish(_pid) }
    :: d_step { object[_pid].deleting && object[_pid].there && MAY_BE_REMOVED(_pid) ->
        object[_pid].there = 0; object[_pid].deleting = 0; object[_pid].dead = 0; object[_pid].number = 0;
        publish(_pid)
       }
    /* Verification reads. That of a suspended record is the one which decides 10 s after the evidence. */
    :: d_step { entry[_pid].known && entry[_pid].suspended && !verified[_pid] && LIVE(object[_pid]) && (ALONE(_pid) || object[_pid].number > object[1 - _pid].number) && WRITTEN_IN_TIME(_pid) ->
        verified[_pid] = 1
       }
    :: d_step { entry[_pid].known && entry[_pid].suspended && verified[_pid] ->
        entry[_pid].suspended = 0;
        bump(_pid);
        verified[_pid] = 0
       }
    /* No read is used for longer than a second. */
    :: d_step { verified[_pid] -> verified[_pid] = 0 }
    od
}

/* NMI, apart from requests: the informer, the reader of netlink, the read about an address. */
active proctype Nmi() {
    do
    /* The informer. Events lag for as long as they are in the queue; a lost watch is listed again. */
    :: d_step { !lost -> empty_watch(); lost = 1 }
    /* The list is one consistent picture. What is gone is applied first, then the rest, each in a step of its own. */
    :: d_step { lost && subscribed ->
        lost = 0;
        p = 0;
        do
        :: p < PODS -> if :: object[p].there -> skip :: else -> watch!p,0,0,0,0 fi; p++
        :: else -> break
        od;
        p = 0;
        do
        :: p < PODS -> if :: object[p].there -> watch!p,1,object[p].deleting,object[p].dead,object[p].number :: else fi; p++
        :: else -> break
        od;
        p = 0
       }
    :: d_step { nempty(watch) ->
        watch?q,there_,deleting_,dead_,number_;
        if
        :: there_ -> take(q, deleting_, dead_, number_, 1)
        :: else -> if :: entry[q].known -> retire(q) :: else fi
        fi;
        q = 0; there_ = 0; deleting_ = 0; dead_ = 0; number_ = 0
       }
#ifdef STARTED_LATE
    :: d_step { !subscribed -> subscribed = 1 }
#endif
    /* The reader of netlink. */
    :: d_step { nempty(netlink) ->
        netlink?number_,real_;
        if
        :: behind > 0 -> behind--
        :: else
        fi;
#ifndef NO_EVIDENCE
#ifndef OVERRUN_IGNORED
        if
        :: number_ == OVERRUN -> number_ = (owner == NO_POD -> made : sandbox[owner % PODS] - 1)   /* dumped again */
        :: else
        fi;
#endif
        crossed = 1;
        if
        :: number_ > evidence -> evidence = number_
        :: else
        fi;
        if
        :: real_ && number_ > buried -> buried = number_
        :: else
        fi;
        p = 0;
        do
        :: p < PODS ->
            if
            :: CLAIMS(p) ->
                entry[p].suspended = 1;
                bump(p)
            :: else
            fi;
            p++
        :: else -> break
        od;
        p = 0;
#endif
        number_ = 0; real_ = 0
       }
    :: d_step { asked != NO_POD -> take_lookup() }
    od
}

#define ME (_pid - PODS - 1)
/* Requests: one is sent by the pod that has the address at that moment. */
active [REQUESTS] proctype Serve() {
    do
    :: d_step { request[ME].phase == IDLE && ASKS && IN_ORDER && MATCH != NO_POD && (SERVED(MATCH % PODS) || UNCHECKED(MATCH % PODS)) && MAY_ASK ->
        request[ME].from = owner;
        request[ME].who = MATCH;
        if
        :: DOUBTFUL(request[ME].who) && !UNCHECKED(request[ME].who) ->
            if
            :: verified[request[ME].who] || LIVE(object[request[ME].who]) ->
                verified[request[ME].who] = 1;
                request[ME].phase = VERIFYING
            :: else -> request[ME].phase = UNVERIFIED
            fi
        :: entry[request[ME].who].ready && (!DOUBTFUL(request[ME].who) || UNCHECKED(request[ME].who)) ->
            s = request[ME].who;
            answer(ME, s);
            s = 0
        :: else -> request[ME].phase = FETCHING
        fi
       }
    :: d_step { request[ME].phase == IDLE && ASKS && IN_ORDER && MATCH == NO_POD && asked == NO_POD ->
        /* The pods at the address in the API server; of several the one that was started last, if it has not ended. */
#ifdef SETTLED_BY_ELIMINATION
        p = 0;
        do
        :: p < PODS -> s = s + (object[p].there && object[p].number); p++
        :: else -> break
        od;
        p = 0;
        do
        :: p < PODS ->
            if
            :: object[p].there && object[p].number && (s == 1 || (!object[p].deleting && !object[p].dead)) ->
                q++; asked = p; found = object[p].number
            :: else
            fi;
            p++
        :: else -> break
        od;
        p = 0; s = 0;
        if
        :: q != 1 -> asked = NO_POD; found = 0
        :: else
        fi;
        q = 0;
#else
        if
        :: object[0].there && object[0].number && (ALONE(0) || (!object[0].dead && object[0].number > object[1].number)) ->
            asked = 0; found = object[0].number
        :: object[1].there && object[1].number && (ALONE(1) || (!object[1].dead && object[1].number > object[0].number)) ->
            asked = 1; found = object[1].number
        :: else
        fi;
#endif
        crossed = 0
       }
    :: d_step { request[ME].phase == VERIFYING -> request[ME].phase = FETCHING }
#ifndef WRITTEN_FIRST
    /* The read is not answered: NMI serves what it knows (--stale-identity=serve). */
    :: d_step { request[ME].phase == UNVERIFIED -> request[ME].phase = FETCHING }
#endif
    :: d_step { request[ME].phase == UNVERIFIED -> forget(ME) }
    :: d_step { request[ME].phase == FETCHING && IN_ORDER ->
        if
        :: STANDS(ME) ->
            s = request[ME].who;
            if
            :: !DOUBTFUL(s) && SERVED(s) -> entry[s].ready = 1
            :: else
            fi;
            answer(ME, s);
            s = 0
        :: else -> forget(ME)
        fi
       }
    od
}
