package dispatch

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"strconv"
)

// ids is what a lane remembers of the jobs that ended, wait or are under way: the id of each, and the record that it was
// first used for. It lives in memory alone and is filled from the results at the start of the lane, so it reaches as far
// back as those do (400 days before the start), and grows by one entry for each new id after it.
//
// Ids stand in it as 104 bits of their SHA-256. That two ids meet, so that a job would be called a repetition that is
// none, has a chance of less than 1 in 10^17 among ten million. An id that was remembered is always found.
//
// An entry takes 16 bytes without a pointer, which the collector need not look at. The table is cut into 256 shards that
// grow by a quarter each, so that it takes 19 to 24 bytes an id at any size, and no more while it grows.
//
// The zero value is empty and ready for use. It is used by one goroutine.
type ids struct {
	shards [256]shard
	far    map[fingerprint]int64 // records of entries that are marked as farRecord
}

// shard is a hash table with open addressing: an entry stands at its home or behind it, before the next free place.
type shard struct {
	entries []entry
	used    int
}

// entry is an id and its record: record + 1, so that 0 is a free place; or farRecord.
type entry struct {
	id     fingerprint
	record uint32
}

// fingerprint is what is kept of an id, beside the number of its shard.
type fingerprint [3]uint32

const (
	// farRecord marks a record that is too large for an entry. kintone counts records from 1.
	farRecord = math.MaxUint32
	// A shard is filled to fill hundredths of its places. One more tenth would save a tenth of the memory and double what
	// is looked through for an id that is not there.
	fill = 85
	// fewest is how many places a shard begins with.
	fewest = 8
)

// remember keeps an id and its record, unless the id is there already: the first use counts.
func (s *ids) remember(id string, record int64) {
	if id == "" {
		return
	}
	shard, f := s.locate(id)
	if _, found := shard.find(f); found {
		return
	}
	e := entry{id: f, record: uint32(record + 1)}
	if record < 0 || record >= farRecord-1 {
		if s.far == nil {
			s.far = make(map[fingerprint]int64)
		}
		e.record, s.far[f] = farRecord, record
	}
	if (shard.used+1)*100 > len(shard.entries)*fill {
		shard.grow()
	}
	shard.put(e)
}

// amend gives an id that was remembered without a record the one that its key has found.
func (s *ids) amend(id string, record int64) {
	shard, f := s.locate(id)
	if len(shard.entries) == 0 || record < 1 || record >= farRecord-1 {
		return
	}
	for i := shard.home(f); shard.entries[i].record != 0; i = shard.next(i) {
		if shard.entries[i].id == f {
			if shard.entries[i].record == 1 { // record 0
				shard.entries[i].record = uint32(record + 1)
			}
			return
		}
	}
}

// usedFor reports whether an id was remembered, and for which record.
func (s *ids) usedFor(id string) (record int64, used bool) {
	if id == "" {
		return 0, false
	}
	shard, f := s.locate(id)
	e, found := shard.find(f)
	if found && e.record == farRecord {
		return s.far[f], true
	}
	return int64(e.record) - 1, found
}

// size is how many ids are remembered.
func (s *ids) size() int {
	n := 0
	for i := range s.shards {
		n += s.shards[i].used
	}
	return n
}

func (s *ids) locate(id string) (*shard, fingerprint) {
	sum := sha256.Sum256([]byte(id))
	return &s.shards[sum[0]], fingerprint{
		binary.LittleEndian.Uint32(sum[4:]), binary.LittleEndian.Uint32(sum[8:]), binary.LittleEndian.Uint32(sum[12:]),
	}
}

// find looks from the home of a fingerprint to the next free place, which there always is.
func (s *shard) find(f fingerprint) (entry, bool) {
	if len(s.entries) == 0 {
		return entry{}, false
	}
	for i := s.home(f); s.entries[i].record != 0; i = s.next(i) {
		if s.entries[i].id == f {
			return s.entries[i], true
		}
	}
	return entry{}, false
}

// put enters what is not there yet.
func (s *shard) put(e entry) {
	i := s.home(e.id)
	for s.entries[i].record != 0 {
		i = s.next(i)
	}
	s.entries[i] = e
	s.used++
}

func (s *shard) grow() {
	before := s.entries
	*s = shard{entries: make([]entry, max(fewest, len(before)+len(before)/4))}
	for _, e := range before {
		if e.record != 0 {
			s.put(e)
		}
	}
}

// home spreads fingerprints evenly over any number of places.
func (s *shard) home(f fingerprint) int {
	return int(uint64(f[0]) * uint64(len(s.entries)) >> 32)
}

func (s *shard) next(i int) int {
	if i++; i == len(s.entries) {
		return 0
	}
	return i
}

// isNumbered reports whether a job is called by its place in the log, because its publisher gave it no id. No
// publisher may use such an id, so that it need not be remembered.
func isNumbered(id string, seq uint64) bool {
	var buf [21]byte
	return id == string(strconv.AppendUint(append(buf[:0], 's'), seq, 10))
}
