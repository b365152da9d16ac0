/* pairing.pml - how two KMEs make the next block (docs/protocol.md, "Pairing").
 *
 * The leader proposes, the follower decides, both settle; heartbeats tell each end what the
 * other one has settled. Every line that is one step here is one durable write in the code
 * (kme.pairing.propose, decide, challenges). What lies between two steps may be lost by a crash.
 *
 * The network: any proposal that was ever sent may arrive again, at any time, any number of
 * times. An answer reaches its own question or nobody. Heartbeats come late or never.
 *
 * Each BUG_... switch plants one mistake; tests/repo/test_protocol_model.py wants every one found.
 */
#ifdef LIVE
#define N 2
#else
#define N 3                             /* block numbers 1..N */
#endif
#define K 3                             /* final keys 0..K-1; a block is made of one of them */
#define L 0                             /* the leader */
#define F 1                             /* the follower */

#define NO 0                            /* verdicts and answers */
#define EQUAL 1
#define UNEQUAL 2
#define VOID 3
#define REFUSED 4
#define ASKED 5

#define CONTENT(entry, owner) (1 + 2 * (entry) + (owner))
#define ENTRY(c) (((c) - 1) / 2)
#define OWNER(c) (((c) - 1) % 2)
#define AT(kme, n) ((kme) * (N + 1) + (n))

#ifdef LIVE                             /* liveness is asked after the last fault */
byte faults_left = 1;
#define MAY_FAIL (faults_left > 0)
#define FAIL faults_left--
#else
#define MAY_FAIL true
#define FAIL skip
#endif

/* Durable. */
byte highest[2];
byte open_n, open_c;                    /* the leader's open proposal */
byte last_n[2], last_c[2], last_v[2];   /* the last settlement */
byte peer_settled[2];
byte inbox[2] = 7;                      /* a bit for each final key that waits */
byte block[2 * (N + 1)];                /* content of a block whose bytes and ledger are there */

/* In memory and under way. */
byte answer;                            /* what became of the leader's outstanding question */
byte sent[N + 1];                       /* proposals on the network */
byte told[2];                           /* what each end's last heartbeat said is settled */

/* What nobody sees but the checks. */
byte odd = K;                           /* the final key that is not the same at both ends */
byte fate[2 * (N + 1)];                 /* content and verdict under which a number was settled */

/* A block that an end may allocate from is at the other end, durable and the same. */
inline check_usable(kme) {
    d_step {
        i = 1;
        do
        :: i <= peer_settled[kme] ->
            if
            :: block[AT(kme, i)] != 0 ->
                assert(block[AT(1 - kme, i)] == block[AT(kme, i)]);
                assert(ENTRY(block[AT(kme, i)]) != odd)
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0
    }
}

/* One number has one content and one verdict, wherever it is settled. */
inline write_settlement(kme, n, c, v) {
    d_step {
        assert(fate[AT(kme, n)] == 0);
        fate[AT(kme, n)] = 8 * v + c;
        assert(fate[AT(1 - kme, n)] == 0 || fate[AT(1 - kme, n)] == fate[AT(kme, n)]);
        last_n[kme] = n;
        last_c[kme] = c;
        last_v[kme] = v;
        highest[kme] = (n > highest[kme] -> n : highest[kme]);
        inbox[kme] = inbox[kme] & ~(1 << ENTRY(c));
        if
        :: v == EQUAL -> block[AT(kme, n)] = c
        :: else
        fi
    }
}

proctype Leader() {
    byte i, entry, owner;
end:
    do
    /* Write the next proposal, before it is sent. */
    :: atomic {
        open_n == 0 && answer == NO && highest[L] < N && inbox[L] != 0 &&
        peer_settled[L] >= last_n[L] ->
        if
        :: inbox[L] & 1 -> entry = 0
        :: inbox[L] & 2 -> entry = 1
        :: inbox[L] & 4 -> entry = 2
        fi;
        if
        :: owner = L
#ifndef LIVE                            /* who owns a block changes nothing of how it is made */
        :: owner = F
#endif
        fi;
        highest[L]++;
        open_n = highest[L];
        open_c = CONTENT(entry, owner);
        entry = 0;
        owner = 0
       }
    /* Send it, for the first time or again. */
    :: atomic {
        open_n != 0 && answer == NO ->
        assert(sent[open_n] == 0 || sent[open_n] == open_c);
        sent[open_n] = open_c;
        answer = ASKED
       }
    /* No answer in time, or a crash: what is in memory is gone. */
    :: atomic {
        answer != NO && MAY_FAIL ->
        FAIL;
        answer = NO;
#ifdef BUG_OTHER_CONTENT
        if
        :: open_n != 0 -> open_n = 0; open_c = 0; highest[L]--
        :: else
        fi
#endif
       }
    /* Settle, and only then go on. */
    :: atomic {
        answer == EQUAL || answer == UNEQUAL || answer == VOID ->
        write_settlement(L, open_n, open_c, answer);
        open_n = 0;
        open_c = 0;
        answer = NO
       }
    /* The verdict came from the follower, which was durable with it. */
    :: atomic {
        peer_settled[L] < last_n[L] ->
        peer_settled[L] = last_n[L];
        check_usable(L)
       }
    od
}

/* What the follower makes of a proposal; its answer is given in `out`. */
inline decide(n, c, out) {
    if
#ifndef BUG_NO_REPEAT
    :: n == last_n[F] && c == last_c[F] -> out = last_v[F]
    :: n <= highest[F] && !(n == last_n[F] && c == last_c[F]) -> out = REFUSED
#else
    :: n <= highest[F] -> out = REFUSED
#endif
    :: n > highest[F] ->
        if
        :: !(inbox[F] & (1 << ENTRY(c))) -> out = VOID
#ifndef BUG_COMMIT_UNEQUAL
        :: (inbox[F] & (1 << ENTRY(c))) && ENTRY(c) == odd -> out = UNEQUAL
        :: (inbox[F] & (1 << ENTRY(c))) && ENTRY(c) != odd -> out = EQUAL
#else
        :: inbox[F] & (1 << ENTRY(c)) -> out = EQUAL
#endif
        fi;
#ifdef BUG_ANSWER_BEFORE_DURABLE
        if
        :: write_settlement(F, n, c, out)
        :: skip                         /* a crash before the write, behind the answer */
        fi
#else
        write_settlement(F, n, c, out)
#endif
    fi
}

proctype Follower() {
end:
    do
    :: atomic { answer == ASKED -> decide(open_n, open_c, answer) }
    od
}

/* A proposal that comes late or once more; nobody waits for the answer. */
proctype Past() {
    byte n, unheard;
end:
    do
    :: atomic {
        if
        :: sent[1] != 0 -> n = 1
        :: sent[2] != 0 -> n = 2
        :: sent[N] != 0 -> n = N
        fi;
        decide(n, sent[n], unheard);
        n = 0;
        unheard = 0
       }
    od
}

/* Heartbeats of both ends; between telling and hearing lies any time. */
proctype Heartbeats() {
    byte i;
end:
    do
    :: told[L] != last_n[L] -> told[L] = last_n[L]
    :: told[F] != last_n[F] -> told[F] = last_n[F]
    :: atomic {
        told[L] > peer_settled[F] && last_n[F] > peer_settled[F] ->
        peer_settled[F] = (told[L] < last_n[F] -> told[L] : last_n[F]);
        check_usable(F)
       }
    :: atomic {
        told[F] > peer_settled[L] && last_n[L] > peer_settled[L] ->
        peer_settled[L] = (told[F] < last_n[L] -> told[F] : last_n[L]);
        check_usable(L)
       }
#ifdef BUG_ALLOCATE_EARLY
    :: atomic { peer_settled[F] < last_n[F] -> peer_settled[F] = last_n[F]; check_usable(F) }
#endif
    od
}

/* Burn what waits: the leader keeps what its open proposal lists, the follower can't know it. */
proctype Operator() {
    if
    :: true -> inbox[F] = 0
    :: atomic { true -> inbox[L] = (open_n != 0 -> inbox[L] & (1 << ENTRY(open_c)) : 0) }
    :: true
    fi
}

init {
    atomic {
        if
        :: odd = 0
        :: odd = 1
        :: odd = K                      /* all final keys are the same at both ends */
        fi;
        run Leader();
        run Follower();
        run Past();
        run Heartbeats();
        run Operator()
    }
}

#ifdef LIVE
/* Once faults end, no proposal stays open, and both ends know how far both have settled. */
ltl goes_on {
    ([] <> (open_n == 0)) && (<> [] (
        last_n[F] == last_n[L] && peer_settled[L] == last_n[L] && peer_settled[F] == last_n[F] &&
        (highest[L] == N || inbox[L] == 0)))
}
#endif
