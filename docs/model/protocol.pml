/* The protocol of credits, leases and calls, from a request to the end of its job.

   Inlines carry the names of the steps in the code; README.md says where each stands, and what is left out. What is
   `atomic` here is one transaction there, or one request to Redis, the bucket or the provider. Between any two of
   them everybody else may move, a worker may die, and a lease may run out.

   The bounds are numbers to be set with -D: the model is finite, and complete within them. A switch -DNO_… removes one
   protection, or turns it round; each of them must break a promise. */

#ifndef MAX_CALLS
#define MAX_CALLS 2      /* calls that a job may make */
#endif
#ifndef OUTPUTS
#define OUTPUTS 1        /* pictures that a job asks for: 1 or 2 */
#endif
#ifndef REQUESTS
#define REQUESTS 1       /* 2: the request is repeated, or another one is made */
#endif
#ifndef KEYS
#define KEYS 1           /* 1: both carry one idempotency key; 2: each its own, and there are credits for one job */
#endif
#ifndef CRASHES
#define CRASHES 1        /* workers that die with a job */
#endif
#ifndef LAPSES
#define LAPSES 1         /* leases that run out although their worker lives: a zombie */
#endif
#ifndef THROTTLES
#define THROTTLES 1      /* calls that are throttled, and count for nothing */
#endif
#ifndef TROUBLES
#define TROUBLES 1       /* attempts that fail on our side: a commit whose answer is lost, a closed lane, no time to poll */
#endif
#ifndef MOST_CRASHES
#define MOST_CRASHES 2   /* leases of one job that may run out before it is given up (3 in the code) */
#endif
#ifndef CANCELS
#define CANCELS 1        /* whether the tenant cancels, at any time */
#endif
#ifndef DEADLINE
#define DEADLINE 0       /* 1: the deadline may pass at any time. 0: never, so nothing may wait for it */
#endif
#ifndef HANDLES
#define HANDLES 1        /* whether the provider may work in the background, with a handle */
#endif

#ifndef BUCKET_AWAY
#define BUCKET_AWAY 0    /* 1: among the troubles is that the bucket does not take an original, and there is no room to wait */
#endif

#define JOBS 2
#define HOLD OUTPUTS                                /* a picture costs one credit */
#ifndef CREDITS
#define CREDITS HOLD                                /* credits for one job */
#endif
#define ROWS (MAX_CALLS + THROTTLES + 1)            /* calls journaled of a job; the last one stands for one too many */
#if MAX_CALLS + THROTTLES > 5
#error "EACH_CALL knows six rows"
#endif

mtype = { none, queued, running, succeeded, partial, failed, canceled, expired };       /* a job; none: not admitted */
mtype = { unwritten, open, ok, refused, fault, throttled, unknown, internal };          /* a call's row */
mtype = { nothing, working, picture, failure };                                         /* a provider's work */
mtype = { idle, popped, claimed, at_work, unpaid };                                     /* a worker */
/* An output in an attempt. The last four are final. */
mtype = { to_take_over, to_reconcile, to_buy, to_begin, to_submit, to_operate, to_follow, to_put, to_give_back, to_end,
          pictured, pending, again, missing };

typedef Call {
  mtype row = unwritten;
  bit output;
  bit operation;           /* the provider's handle is kept */
  byte original            /* the checksum of the original the row names; 0: none */
};

typedef Job {
  mtype state = none;
  byte fence;
  bit leased;              /* the lease stands */
  bit late;                /* the deadline has passed */
  byte crash_count;
  byte calls_started;
  byte hold;
  byte captured;
  byte released;
  byte delivered;
  bit hopeless[OUTPUTS];   /* a call of this output ended with what is not worth another */
  Call call[ROWS];
  byte rows;
  byte artifact[OUTPUTS];  /* 1 + the call whose original it is */
  byte sha256[OUTPUTS];
  /* What nobody in the protocol knows, for the promises. */
  byte settled;            /* settlements of the hold */
  byte made;               /* calls the provider answered otherwise than "throttled" */
  mtype work[ROWS] = nothing;
  bit polled[ROWS];        /* the handle was asked about */
  byte object[ROWS]        /* the bucket: a checksum under a key; 0: nothing */
};

Job job[JOBS];
byte admitted;             /* jobs there are */
short available = CREDITS; /* the wallet */
short held;
short revenue;
byte answered[KEYS];       /* idempotency keys: 1 + the job */
byte admitted_for[KEYS];
bit ready_queue[JOBS];     /* Redis: a set of ids */
byte crashes, lapses, throttles, troubles;
bit stale;                 /* something was changed under a fence that is no longer the job's */

#ifdef GROUP
mtype = { absent, waiting, taken, replied };
typedef Request {
  mtype place = absent;
  byte key;
  byte reply               /* 1 + the job; 0: refused */
};
Request request[2];
#endif

#define IS_OPEN(j)  (job[j].state == queued || job[j].state == running)
#define ENDED(j)    (job[j].state != none && !IS_OPEN(j))
#define MINE        (job[j].state == running && job[j].fence == fence)

#ifdef NO_CALL_KEY
#define KEY(j, c) job[j].call[c].output    /* a key that the calls of an output share, written with a plain PUT */
#define REPLACES true
#else
#define KEY(j, c) (c)
#define REPLACES false
#endif

/* ---- The promises. The name after || is how a broken one is told from the others; it is never true. ---- */

bit I1_no_credit_is_made_or_lost, I4_held_is_held_for_open_jobs, I5_settled_exactly_once, I6_charged_is_delivered,
  I7_an_artifact_is_what_was_stored, I7_a_named_original_is_there, I8_a_stale_fence_changes_nothing,
  I9_a_call_is_journaled_before_it_is_made, I9_calls_are_bounded, I9_the_count_is_the_journal,
  I9_one_call_at_a_time, I9_no_open_call_of_an_ended_job, I10_nothing_is_stuck, I10_poison_ends, I11_one_job_per_key,
  I12_never_overdrawn, I20_redis_is_disposable, a_stored_picture_is_never_bought_again,
  a_handles_work_is_never_given_up, each_submit_gets_its_own_answer, it_happens;

#if ROWS == 2
#define EACH_CALL(p, j, op) (p(j, 0) op p(j, 1))
#elif ROWS == 3
#define EACH_CALL(p, j, op) (p(j, 0) op p(j, 1) op p(j, 2))
#elif ROWS == 4
#define EACH_CALL(p, j, op) (p(j, 0) op p(j, 1) op p(j, 2) op p(j, 3))
#elif ROWS == 5
#define EACH_CALL(p, j, op) (p(j, 0) op p(j, 1) op p(j, 2) op p(j, 3) op p(j, 4))
#else
#define EACH_CALL(p, j, op) (p(j, 0) op p(j, 1) op p(j, 2) op p(j, 3) op p(j, 4) op p(j, 5))
#endif
#if OUTPUTS == 1
#define EACH_OUTPUT(p, j, op) (p(j, 0))
#else
#define EACH_OUTPUT(p, j, op) (p(j, 0) op p(j, 1))
#endif

#define ROW_COUNTS(j, c)    (job[j].call[c].row != unwritten && job[j].call[c].row != throttled)
#define ROW_IS_OPEN(j, c)   (job[j].call[c].row == open)
#define OPEN_FOR_0(j, c)    (job[j].call[c].row == open && job[j].call[c].output == 0)
#define OPEN_FOR_1(j, c)    (job[j].call[c].row == open && job[j].call[c].output == 1)
#define NAMED_IS_THERE(j, c) (job[j].call[c].original == 0 || job[j].object[KEY(j, c)] == job[j].call[c].original)
#define ARTIFACT_IS_IT(j, o) \
  (job[j].artifact[o] == 0 || \
   (job[j].object[KEY(j, job[j].artifact[o] - 1)] == job[j].sha256[o] && job[j].call[job[j].artifact[o] - 1].original == job[j].sha256[o]))
#define POLLED_STANDS(j, c) (!job[j].polled[c] || job[j].call[c].row == open || job[j].call[c].row == ok || job[j].work[c] == failure)
#define HELD(j)             (IS_OPEN(j) -> job[j].hold : 0)

#define SETTLED_ONCE(j) \
  ((ENDED(j) && job[j].settled == 1 && job[j].captured + job[j].released == job[j].hold) || \
   (!ENDED(j) && job[j].settled == 0 && job[j].captured == 0 && job[j].released == 0))
#define STATE_TELLS(j) \
  (job[j].captured == job[j].delivered && \
   (job[j].state == succeeded) == (job[j].delivered == OUTPUTS) && \
   (job[j].state == partial) == (job[j].delivered > 0 && job[j].delivered < OUTPUTS))

#define KEPT(j) \
  (EACH_CALL(NAMED_IS_THERE, j, &&) || I7_a_named_original_is_there); \
  assert(EACH_OUTPUT(ARTIFACT_IS_IT, j, &&) || I7_an_artifact_is_what_was_stored); \
  assert(EACH_CALL(ROW_COUNTS, j, +) == job[j].calls_started || I9_the_count_is_the_journal); \
  assert(EACH_CALL(OPEN_FOR_0, j, +) <= 1 && EACH_CALL(OPEN_FOR_1, j, +) <= 1 || I9_one_call_at_a_time); \
  assert(!IS_OPEN(j) || EACH_CALL(POLLED_STANDS, j, &&) || a_handles_work_is_never_given_up); \
  assert(!ENDED(j) || !EACH_CALL(ROW_IS_OPEN, j, ||) || I9_no_open_call_of_an_ended_job)

/* A request that was answered got the job of its key; one that was refused has none. */
#ifdef GROUP
#define OWN_ANSWER(r) (request[r].place != replied || request[r].reply == answered[request[r].key] || request[r].reply == 0)
#define EVERY_SUBMIT_IS_ANSWERED ((request[0].place == replied || request[0].place == absent) && (request[1].place == replied || request[1].place == absent))
#else
#define OWN_ANSWER(r) true
#define EVERY_SUBMIT_IS_ANSWERED true
#endif

/* What is worth a promise: a model in which nothing happens keeps every one. */
#define SUCCEEDS        (job[0].state == succeeded)
#define TAKES_OVER      (job[0].state == succeeded && job[0].fence == 2 && job[0].made == 1)
#define TAKES_HANDLE    (TAKES_OVER && job[0].call[0].operation)
#define WAITS_ITS_TURN  (job[0].state == succeeded && job[0].rows == 2 && job[0].calls_started == 1)
#define DELIVERS_A_PART (job[0].state == partial)
#define IS_REFUSED      (job[0].state == failed && job[0].hopeless[0])
#define IS_POISON       (job[0].state == failed && job[0].rows == 0)
#define IS_CANCELED     (job[0].state == canceled && job[0].made == 1)
#define EXPIRES         (job[0].state == expired)
#ifdef GROUP
#define SHARES_A_COMMIT (admitted == 1 && request[0].reply == 1 && request[1].reply == 1)
#define ONE_IS_REFUSED  (admitted == 1 && request[0].place == replied && request[1].place == replied && request[0].reply + request[1].reply == 1)
#endif

/* In every state: */
never {
  do
  :: d_step {
    assert((SETTLED_ONCE(0) && SETTLED_ONCE(1)) || I5_settled_exactly_once);
    assert(available + held + revenue == CREDITS || I1_no_credit_is_made_or_lost);
    assert((available >= 0 && held >= 0) || I12_never_overdrawn);
    assert(held == HELD(0) + HELD(1) || I4_held_is_held_for_open_jobs);
    assert((STATE_TELLS(0) && STATE_TELLS(1)) || I6_charged_is_delivered);
    assert(!stale || I8_a_stale_fence_changes_nothing);
    assert((job[0].made <= job[0].calls_started && job[1].made <= job[1].calls_started) || I9_a_call_is_journaled_before_it_is_made);
    assert((job[0].calls_started <= MAX_CALLS && job[1].calls_started <= MAX_CALLS) || I9_calls_are_bounded);
    assert((job[0].crash_count < MOST_CRASHES && job[1].crash_count < MOST_CRASHES) || I10_poison_ends);
    assert((admitted_for[0] <= 1 && admitted_for[KEYS - 1] <= 1) || I11_one_job_per_key);
    assert((OWN_ANSWER(0) && OWN_ANSWER(1)) || each_submit_gets_its_own_answer);
    assert KEPT(0);
    assert KEPT(1)
#ifdef HAPPENS
    ; assert(!HAPPENS || it_happens)
#endif
    }
  od
}

/* When nobody can move any more: */
active proctype AtRest() {
  timeout -> d_step {
    assert((job[0].state != queued && job[1].state != queued) || DEADLINE || I20_redis_is_disposable);
    assert((!IS_OPEN(0) && !IS_OPEN(1)) || I10_nothing_is_stuck);
    assert(held == 0 || I4_held_is_held_for_open_jobs);
    assert(EVERY_SUBMIT_IS_ANSWERED || each_submit_gets_its_own_answer)
  }
}

/* ---- Settlement: common/src/settlement.rs ---- */

/* Whether the lease still stands: the job runs, under this fence. */
#if defined(NO_GUARD)
#define OPENED (job[j].fence == fence)
#elif defined(NO_FENCE)
#define OPENED (job[j].state == running)
#else
#define OPENED MINE
#endif

inline note_fence() { stale = stale || job[j].fence != fence }

/* Ends what is still open of a job that ends. */
inline abandon(j) {
#ifdef NO_ABANDON
  skip
#else
  for (c : 0 .. ROWS - 1) {
    if
    :: job[j].call[c].row == open -> job[j].call[c].row = unknown
    :: else
    fi
  }
  c = 0
#endif
}

inline resolve(j) {
  held = held - job[j].hold;
  available = available + job[j].hold - job[j].delivered;
  revenue = revenue + job[j].delivered;
  job[j].captured = job[j].captured + job[j].delivered;
  job[j].released = job[j].released + job[j].hold - job[j].delivered;
  job[j].settled++
}

inline end_job(j, ending) {
  resolve(j);
  job[j].state = ending;
  job[j].leased = 0;
  abandon(j)
}

inline requeue(j) {
  job[j].state = queued;
  job[j].leased = 0
}

inline deliver() {
  if
  :: OPENED ->
     note_fence();
     o = 0;
     do
     :: o < OUTPUTS && out[o].step == pictured ->
        job[j].artifact[o] = out[o].call + 1;
        job[j].sha256[o] = out[o].sum;
        job[j].delivered++;
        o++
     :: o < OUTPUTS && out[o].step != pictured -> o++
     :: o == OUTPUTS -> break
     od;
     o = 0;
#ifdef NO_ONE_SETTLEMENT
     job[j].state = (job[j].delivered == OUTPUTS -> succeeded : partial);
     job[j].leased = 0;
     abandon(j);
     at = unpaid                               /* the credits follow in a transaction of their own */
#else
     if
     :: job[j].delivered == OUTPUTS -> end_job(j, succeeded)
     :: else -> end_job(j, partial)
     fi
#endif
  :: else
  fi
}

inline give_up() {
  if
  :: OPENED -> note_fence(); end_job(j, failed)
  :: else
  fi
}

inline retry() {
  if
  :: OPENED -> note_fence(); requeue(j)
  :: else
  fi
}

inline put_back() { retry() }                  /* with no outcome; to the protocol it is the same */

inline cancel(j) {
  if
  :: IS_OPEN(j) -> end_job(j, canceled)
  :: else
  fi
}

inline expire(j) { end_job(j, expired) }

inline reap(j) {
  if
#ifndef NO_POISON
  :: job[j].crash_count + 1 >= MOST_CRASHES -> end_job(j, failed)
#endif
  :: else -> job[j].crash_count++; requeue(j)
  fi
}

/* ---- Admission and dispatch: common/src/admission.rs, dispatch.rs ---- */

inline insert() {
  j = admitted;
  admitted++;
  job[j].state = queued;
  job[j].hold = HOLD;
  answered[key] = j + 1;
  admitted_for[key]++
}

inline hold_lots() {
  available = available - HOLD;
  held = held + HOLD
}

#ifdef NO_IDEMPOTENCY
#define REPEATED false
#else
#define REPEATED (answered[key] > 0)
#endif

#if defined(NO_ATOMIC_BALANCE)
inline admit() {
  seen = available;
  atomic {
    if
    :: !REPEATED && seen >= HOLD -> hold_lots(); insert()
    :: else -> goto answered_already
    fi
  }
}
#elif defined(NO_ONE_ADMISSION)
inline admit() {
  atomic {
    if
    :: !REPEATED && available >= HOLD -> hold_lots()
    :: else -> goto answered_already
    fi
  }
  atomic { insert() }                          /* or it dies before */
}
#else
inline admit() {
  atomic {
    if
    :: !REPEATED && available >= HOLD -> hold_lots(); insert()
    :: else -> goto answered_already           /* as before, or that the credits do not suffice */
    fi
  }
}
#endif

/* Nobody waits for it, and it may fail. */
inline push_new(j) {
  if
  :: ready_queue[j] = 1
  :: true
  fi
}

#ifndef GROUP
#define RUN_API(r, key) run Api(key)
/* The api: a request, or its repetition. */
proctype Api(byte key) {
  byte j;
  short seen;

  admit();
  push_new(j);
answered_already:
  skip
}
#else
#define RUN_API(r, key) run Api(r, key)
/* Group commit: api/src/groups.rs. A request waits until a task of its process takes it, perhaps together with the other. */
/* A client whose request is answered with the job of its key, or refused. */
proctype Api(byte r; byte key) {
  atomic { request[r].key = key; request[r].place = waiting };
  request[r].place == replied;
  if
  :: request[r].reply > 0 -> push_new(request[r].reply - 1)
  :: else
  fi
}

#define WAITS(r) (request[r].place == waiting)

/* What a request of a group finds stored under its key, and what it finds available. */
#ifdef NO_GROUP_KEYS
#define FOUND known[key]                       /* as it was when the transaction began, whatever was before it in its group */
#else
#define FOUND answered[key]
#endif
#ifdef NO_GROUP_BALANCE
#define FREE seen
#else
#define FREE available
#endif

/* Decides about the requests of a group, one after the other. */
inline admit_all() {
  known[0] = answered[0];
  known[KEYS - 1] = answered[KEYS - 1];
  seen = available;
  for (r : 0 .. 1) {
    if
    :: mine[r] ->
       key = request[r].key;
       if
       :: FOUND > 0 -> request[r].reply = FOUND
       :: FOUND == 0 && FREE >= HOLD -> hold_lots(); insert(); request[r].reply = j + 1
       :: else -> request[r].reply = 0
       fi
    :: else
    fi
  }
}

/* Ends the group: its requests are answered, or wait again. */
inline hand_over(where) {
  for (r : 0 .. 1) {
    if
    :: mine[r] -> request[r].place = where; mine[r] = 0
    :: else
    fi
  }
  r = 0; j = 0; key = 0; seen = 0; known[0] = 0; known[KEYS - 1] = 0    /* fewer states */
}

/* The task of a tenant, in each of two processes. It takes what waits, admits it in one transaction, and replies. If its
   process dies before or after the commit, the clients hear nothing and repeat their requests. */
active [2] proctype Group() {
  bit mine[2];
  byte known[KEYS];
  byte r, j, key;
  short seen;

end:
  do
  :: atomic {
       WAITS(0) || WAITS(1) ->
       if
       :: WAITS(0) -> mine[0] = 1; request[0].place = taken
       :: WAITS(1) -> mine[1] = 1; request[1].place = taken
       :: WAITS(0) && WAITS(1) -> mine[0] = 1; mine[1] = 1; request[0].place = taken; request[1].place = taken
       fi
     };
     if
     :: atomic { admit_all() }
     :: atomic { crashes < CRASHES -> crashes++; hand_over(waiting) }
     fi;
     if
     :: atomic { mine[0] || mine[1] -> hand_over(replied) }
     :: atomic { (mine[0] || mine[1]) && crashes < CRASHES -> crashes++; hand_over(waiting) }
     :: else
     fi
  od
}
#endif

/* Redis may lose everything at any moment. Adding an id twice is adding it once. An id that is popped twice comes from
   fill, after a worker has popped it and before that worker claims the job. */
active proctype Redis() {
end:
  do
  :: atomic { ready_queue[0] || ready_queue[1] -> ready_queue[0] = 0; ready_queue[1] = 0 }
  od
}

#ifndef NO_FILL
inline fill(j) { ready_queue[j] = 1 }

active proctype Dispatcher() {
end:
  do
  :: atomic { job[0].state == queued && !job[0].late && !ready_queue[0] -> fill(0) }
  :: atomic { job[1].state == queued && !job[1].late && !ready_queue[1] -> fill(1) }
  od
}
#endif

/* ---- Those who need no lease ---- */

#if CANCELS
active proctype Tenant() {
  byte c;
end:
#ifdef NO_CANCEL_GUARD
  IS_OPEN(0);
  atomic { end_job(0, canceled) }              /* looked before, not under the lock */
#else
  atomic { job[0].state != none -> cancel(0) }
#endif
}
#endif

#if DEADLINE
active proctype Clock() {
end:
  atomic { IS_OPEN(0) -> job[0].late = 1 }
}
#ifndef NO_EXPIRE
active proctype Expirer() {
  byte c;
end:
  do
  :: atomic { IS_OPEN(0) && job[0].late -> expire(0) }
  od
}
#endif
#endif

/* A lease runs out because its worker died, and then sooner or later it does; or although it lives. */
active proctype Leases() {
end:
  do
  :: atomic { lapses < LAPSES && job[0].state == running && job[0].leased -> lapses++; job[0].leased = 0 }
  :: atomic { lapses < LAPSES && job[1].state == running && job[1].leased -> lapses++; job[1].leased = 0 }
  od
}

#ifndef NO_REAP
active proctype Reaper() {
  byte c;
end:
  do
  :: atomic { job[0].state == running && !job[0].leased -> reap(0) }
  :: atomic { job[1].state == running && !job[1].leased -> reap(1) }
  od
}
#endif

/* ---- A worker: worker/src/tasks/generate.rs, generate/output.rs ---- */

/* An output in the making. */
typedef Output {
  mtype step = to_buy;
  byte call;
  byte sum;                /* checksum of the picture in hand */
  mtype how = open;        /* how the call ended */
  bit known;               /* the journal that was read has the handle */
  bit earlier;             /* the call is an earlier attempt's */
  /* For the promises: what there was when the job was claimed. */
  bit kept                 /* a stored picture: named, or under the key of an open call */
};

inline forget_output(o) {
  out[o].step = to_buy;
  out[o].call = 0;
  out[o].sum = 0;
  out[o].how = open;
  out[o].known = 0;
  out[o].earlier = 0;
  out[o].kept = 0
}

inline forget() {
  at = idle;
  j = 0;
  fence = 0;
  forget_output(0);
  forget_output(OUTPUTS - 1)
}

inline claim() {
  if
  :: job[j].state == queued && !job[j].late ->
     job[j].state = running;
     job[j].fence++;
     job[j].leased = 1;
     fence = job[j].fence;
     at = claimed;
     for (c : 0 .. ROWS - 1) {
       if
       :: job[j].object[KEY(j, c)] != 0 ->
          out[job[j].call[c].output].kept = 1
       :: else
       fi
     }
     c = 0
  :: else -> forget()
  fi
}

/* The journal, read once; it may be out of date by the time it is used. */
inline of_job() {
  at = at_work;
  for (c : 0 .. ROWS - 1) {
    o = job[j].call[c].output;
    if
#ifndef NO_TAKE_OVER
    :: job[j].call[c].row == ok -> out[o].step = to_take_over; out[o].call = c; out[o].sum = job[j].call[c].original
#endif
#ifdef NO_LATE_LOOK
    :: out[o].step == to_buy && job[j].call[c].row == open ->
#else
    :: out[o].step == to_buy && (job[j].call[c].row == open || (job[j].call[c].row == unknown && job[j].object[KEY(j, c)] != 0)) ->
#endif
       out[o].step = to_reconcile;
       out[o].call = c;
       out[o].known = job[j].call[c].operation;
       out[o].earlier = 1
    :: else
    fi
  }
  c = 0;
  o = 0
}

inline renew() { job[j].leased = 1 }

#ifdef NO_HANDLE_FIRST
#define AFTER_HANDLE to_follow
#else
#define AFTER_HANDLE to_operate
#endif
#ifdef NO_GIVE_BACK_GUARD
#define THROTTLED_GOES to_give_back
#else
#define THROTTLED_GOES to_end
#endif
#ifdef NO_STORE_FIRST
#define AFTER_OK out[o].step = (job[j].object[KEY(j, out[o].call)] == out[o].sum -> pictured : to_put)
#else
#define AFTER_OK out[o].step = pictured
#endif

/* One output does its next step. */
inline turn(o) {
  if
  :: out[o].step == to_take_over -> take_over(o)
  :: out[o].step == to_reconcile -> reconcile(o)
  :: out[o].step == to_buy       -> buy(o)
  :: out[o].step == to_begin     -> begin(o)
  :: out[o].step == to_submit    -> submit(o)
  :: out[o].step == to_operate   -> operate(o)
  :: out[o].step == to_follow    -> follow(o)
  :: out[o].step == to_put       -> put_new(o)
  :: out[o].step == to_give_back -> give_back(o)
  :: out[o].step == to_end       -> end_call(o)
  fi
}

/* An original that its call names: ours, whoever bought it. */
inline take_over(o) { out[o].step = pictured }

/* A call nobody has heard the end of: its original may be in the bucket, its provider may still work on it. */
inline reconcile(o) {
  if
#ifndef NO_TAKE_OVER
  :: job[j].object[KEY(j, out[o].call)] != 0 ->
     out[o].sum = job[j].object[KEY(j, out[o].call)];
     out[o].how = ok;
     out[o].step = to_end
#endif
  :: else ->
     if
     :: out[o].known -> out[o].step = to_follow
     :: else -> out[o].how = unknown; out[o].step = to_end
     fi
  fi
}

inline buy(o) {
  out[o].earlier = 0;
  out[o].known = 0;
  if
  :: job[j].hopeless[o] -> out[o].step = missing
  :: !job[j].hopeless[o] && troubles < TROUBLES -> troubles++; out[o].step = pending        /* no lane lets it in */
#ifdef NO_JOURNAL_FIRST
  :: !job[j].hopeless[o] && job[j].rows < ROWS -> out[o].call = job[j].rows; out[o].step = to_submit
#else
  :: !job[j].hopeless[o] -> out[o].step = to_begin
#endif
  fi
}

#ifdef NO_FENCE
#define MAY_BEGIN (job[j].state == running && job[j].leased && !job[j].late)
#else
#define MAY_BEGIN (MINE && job[j].leased && !job[j].late)
#endif
#ifdef NO_BOUND
#define CALLS_LEFT (job[j].rows < ROWS)
#else
#define CALLS_LEFT (job[j].calls_started < MAX_CALLS)
#endif

/* The last check before money is spent: counts the call and journals it. */
inline begin(o) {
  if
  :: MAY_BEGIN && CALLS_LEFT ->
     note_fence();
     assert(!out[o].kept || a_stored_picture_is_never_bought_again);
     job[j].calls_started++;
     out[o].call = job[j].rows;
     job[j].call[out[o].call].row = open;
     job[j].call[out[o].call].output = o;
     job[j].rows++;
     if
     :: out[o].step = to_submit
     :: troubles < TROUBLES -> troubles++; out[o].step = again         /* the answer to the commit is lost */
     fi
  :: else ->
     if
     :: CALLS_LEFT -> out[o].step = again                              /* the lease or the deadline has passed */
     :: else -> out[o].step = missing
     fi
  fi
}

/* The call. The provider works, and is paid, whoever hears the answer. */
inline submit(o) {
  if
  :: job[j].made++; job[j].work[out[o].call] = picture; out[o].sum = out[o].call + 1; out[o].step = to_put
  :: job[j].made++; out[o].how = refused; out[o].step = to_end
  :: job[j].made++; out[o].how = fault; out[o].step = to_end
  :: job[j].made++; out[o].how = unknown; out[o].step = to_end         /* the answer is lost */
  :: throttles < THROTTLES -> throttles++; out[o].how = throttled; out[o].step = THROTTLED_GOES
#if HANDLES
  :: job[j].made++; job[j].work[out[o].call] = working; out[o].step = AFTER_HANDLE
#endif
  fi
}

/* Keeps the provider's handle before it is asked about. */
inline operate(o) {
  if
  :: job[j].call[out[o].call].row == open -> job[j].call[out[o].call].operation = 1; out[o].step = to_follow
  :: else -> out[o].step = again
  fi
}

/* Asks a provider that works in the background. What it told once, it tells again. */
inline follow(o) {
  job[j].polled[out[o].call] = 1;
  if
  :: job[j].work[out[o].call] == working ->
     if
     :: job[j].work[out[o].call] = picture
     :: job[j].work[out[o].call] = failure
     :: troubles < TROUBLES -> troubles++                              /* it still works, and there is no time to wait */
     fi
  :: else
  fi;
  if
  :: job[j].work[out[o].call] == working -> out[o].step = pending
  :: job[j].work[out[o].call] == picture -> out[o].sum = out[o].call + 1; out[o].step = to_put
  :: job[j].work[out[o].call] == failure -> out[o].how = fault; out[o].step = to_end
  fi
}

/* Stores the original: creates, and never replaces; the same again is success. */
inline put_new(o) {
#ifdef NO_STORE_FIRST
  if
  :: job[j].call[out[o].call].row == ok -> job[j].object[KEY(j, out[o].call)] = out[o].sum; out[o].step = pictured
  :: else -> out[o].how = ok; out[o].step = to_end
  fi
#else
  out[o].how = ok;
  out[o].step = to_end;
  if
  :: job[j].object[KEY(j, out[o].call)] == 0 || REPLACES -> job[j].object[KEY(j, out[o].call)] = out[o].sum
  :: job[j].object[KEY(j, out[o].call)] == out[o].sum
#if BUCKET_AWAY
  :: troubles < TROUBLES -> troubles++;
     if
#ifndef NO_LEFT_OPEN
     :: job[j].call[out[o].call].operation || job[j].object[KEY(j, out[o].call)] == out[o].sum ->
        out[o].step = pending                                          /* it can be had again: the call stays open */
#endif
     :: else -> out[o].how = internal
     fi
#endif
  :: else -> out[o].how = internal                                     /* taken by another */
  fi
#endif
}

/* READ COMMITTED: whether the call is still open is read before anything is locked. */
inline give_back(o) {
  out[o].known = job[j].call[out[o].call].row == open;
  out[o].step = to_end
}

#ifdef NO_END_GUARD
#define STILL_OPEN(o) true
#else
#define STILL_OPEN(o) (job[j].call[out[o].call].row == open || (job[j].call[out[o].call].row == unknown && out[o].how == ok && IS_OPEN(j)))
#endif
/* An earlier attempt's call is given up for lost only by who holds the job, and not when its handle has come meanwhile. */
#define IS_LOST(o) (out[o].earlier && out[o].how == unknown)
#ifdef NO_LOST_FENCE
#define LOST_BY_ANOTHER false
#else
#define LOST_BY_ANOTHER !MINE
#endif
#ifdef NO_LOST_HANDLE
#define LOST_HANDLE(o) false
#else
#define LOST_HANDLE(o) (job[j].call[out[o].call].operation != out[o].known)
#endif

#define MAY_END(o) (STILL_OPEN(o) && !(IS_LOST(o) && (LOST_BY_ANOTHER || LOST_HANDLE(o))))

/* Ends the call, once, whoever works on the job by now; a throttled one gives its count back. */
inline end_call(o) {
  if
  :: MAY_END(o) ->
     stale = stale || (IS_LOST(o) && !MINE);
     job[j].call[out[o].call].row = out[o].how;
     job[j].call[out[o].call].original = (out[o].how == ok -> out[o].sum : 0);
     if
     :: out[o].how == throttled -> job[j].calls_started--
     :: out[o].how == refused -> job[j].hopeless[o] = 1
     :: else
     fi;
     if
     :: troubles < TROUBLES -> troubles++      /* the answer to the commit is lost: the same once more */
     :: out[o].how == ok -> AFTER_OK
     :: out[o].how != ok && out[o].earlier -> out[o].call = 0; out[o].how = open; out[o].step = to_buy
     :: out[o].how != ok && !out[o].earlier && CALLS_LEFT && !job[j].hopeless[o] -> out[o].step = again
     :: out[o].how != ok && !out[o].earlier && (!(CALLS_LEFT) || job[j].hopeless[o]) -> out[o].step = missing
     fi
  :: else ->                                   /* another was first: what it wrote stands, and nothing of this is kept */
#ifdef NO_GIVE_BACK_GUARD
     if
     :: out[o].how == throttled && out[o].known -> job[j].calls_started--
     :: else
     fi;
#endif
     if
     :: out[o].how == ok -> AFTER_OK
     :: else -> out[o].step = pending
     fi
  fi
}

#define FINAL(o) (out[o].step == pictured || out[o].step == pending || out[o].step == again || out[o].step == missing)
#define IS_PICTURED(j, o) (out[o].step == pictured)
#define IS_AGAIN(j, o)    (out[o].step == again)
#define IS_PENDING(j, o)  (out[o].step == pending)

/* What the outputs, taken together, come to. With a deadline, there may be no time for another attempt. */
inline settle() {
  if
  :: EACH_OUTPUT(IS_AGAIN, j, ||) -> retry()
  :: !EACH_OUTPUT(IS_AGAIN, j, ||) && EACH_OUTPUT(IS_PENDING, j, ||) -> put_back()
  :: !EACH_OUTPUT(IS_AGAIN, j, ||) && !EACH_OUTPUT(IS_PENDING, j, ||) && EACH_OUTPUT(IS_PICTURED, j, ||) -> deliver()
  :: !EACH_OUTPUT(IS_AGAIN, j, ||) && !EACH_OUTPUT(IS_PENDING, j, ||) && !EACH_OUTPUT(IS_PICTURED, j, ||) -> give_up()
#if DEADLINE
  :: (EACH_OUTPUT(IS_AGAIN, j, ||) || EACH_OUTPUT(IS_PENDING, j, ||)) && EACH_OUTPUT(IS_PICTURED, j, ||) -> deliver()
  :: EACH_OUTPUT(IS_AGAIN, j, ||) && !EACH_OUTPUT(IS_PICTURED, j, ||) -> give_up()
#endif
  fi
}

active [2] proctype Worker() {
  mtype at = idle;
  byte j, fence, c, o;
  Output out[OUTPUTS];

end:
  do
  :: atomic { at == idle && ready_queue[0] -> ready_queue[0] = 0; j = 0; at = popped }
  :: atomic { at == idle && ready_queue[1] -> ready_queue[1] = 0; j = 1; at = popped }
  :: atomic { at == popped -> claim() }
  :: atomic { at == claimed -> of_job() }
  :: atomic { at == at_work && !FINAL(0) -> turn(0) }
#if OUTPUTS > 1
  :: atomic { at == at_work && !FINAL(1) -> turn(1) }
#endif
  :: atomic { at == at_work && FINAL(0) && FINAL(OUTPUTS - 1) ->
       settle();
       if
       :: at == at_work -> forget()
       :: true                                 /* the answer to the commit is lost: the same once more */
       fi
     }
#ifdef NO_ONE_SETTLEMENT
  :: atomic { at == unpaid -> resolve(j); forget() }
#endif
  :: atomic { fence && MINE && !job[j].leased -> renew() }
  /* It dies; its lease runs out by itself. */
  :: atomic { fence && MINE && crashes < CRASHES -> crashes++; job[j].leased = 0; forget() }
  /* Its job is another's, or has ended: a renewal tells it so, and everything is dropped. Or it never hears of it. */
  :: atomic { fence && !MINE -> forget() }
  od
}

init {
  atomic {
    RUN_API(0, 0);
#if REQUESTS > 1
    RUN_API(1, KEYS - 1)
#endif
  }
}
