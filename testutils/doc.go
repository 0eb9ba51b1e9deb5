// Package testutils helps to test what runs CNI plugins.
package testutils
