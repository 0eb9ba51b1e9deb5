// Command twopods is podcni's demonstration, run by make demo: it attaches two
// pods to a network of the CNI reference plugins, has them talk, and detaches
// them. It does so in user, mount and network namespaces of its own, so that it
// needs no root and touches nothing of the host.
//
//	twopods --plugins DIR
//
// The exit status is 0 only if everything held that it lists at the end.
package main
