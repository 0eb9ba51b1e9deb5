package podcni

import "time"

// fileID tells whether a path still leads to the same file with the same
// content, as far as that can be told without reading it.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // in nanoseconds
}

// coarsest is how far apart two changes of a file can be and still leave the
// same times on it, with room to spare: FAT's clock ticks every two seconds.
const coarsest = 2*time.Second + 100*time.Millisecond

// settled says whether the file's times are old enough, at the moment that it
// was read, for any later change to leave other ones.
func (id fileID) settled(read time.Time) bool {
	return read.UnixNano()-max(id.mtime, id.ctime) > int64(coarsest)
}
